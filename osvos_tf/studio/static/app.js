// The page: what the session says, shown; what a person does, sent.

import { getBlob, getJson, listen, post, postBytes, put } from "./api.js";
import { onKeys } from "./keys.js";
import { decode, Labels } from "./labels.js";
import { fillOffers, hint, objectRow, remarkRow, roundRow, wordsOf } from "./panel.js";
import { Strip } from "./strip.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const KEPT = 24; // frames that are kept decoded
const ADVANCE = 6; // frames fetched ahead while playing

let session = { version: -1, video: null, job: { state: "idle" } };
let number = 0; // of the frame that is shown
let target = 0; // of the one that was asked for
let isPlaying = false;
let saving = Promise.resolve();
let edits = 0; // counts changes of masks, so that an older mask, fetched meanwhile, does not undo one
let wanted = null; // what is to be downloaded once it is made
let shown = 0; // counts calls of go(), so that a slow one does not undo a quicker, later one
const pictures = new Map(); // "number/width" -> promise of an ImageBitmap
const histories = new Map(); // number -> Labels that were drawn here, with their undo

const view = new View($("canvas"));
const desk = {
  labels: null,
  object: 1,
  isLocked: () => isPlaying || isBusy(),
  edited,
  box: findBox,
};
const tools = new Tools(view, desk);
const strip = new Strip($("strip"), (frame) => go(frame));

const isBusy = () => ["starting", "learn", "segment", "save"].includes(session.job.state);
const isLearning = () => ["starting", "learn"].includes(session.job.state);

function say(words, isError = false) {
  $("status").textContent = words;
  $("status").classList.toggle("error", isError);
}

// Runs what a click started; a mistake becomes words.
async function attempt(work, words = "") {
  try {
    if (words) say(words);
    await work();
    if (words) say("");
  } catch (error) {
    say(error.message, true);
  }
}

// --- the session ---------------------------------------------------------------------------------

async function refresh() {
  const before = session.video?.path;
  session = await getJson("session");
  const { video } = session;
  $("drop").hidden = video !== null;
  if (!video) {
    $("hint").textContent = "Open a video first.";
    return;
  }
  if (video.path !== before) {
    pictures.clear();
    histories.clear();
    view.labels = null;
    $("path").value = video.path;
    $("number").max = video.frames - 1;
    $("count").textContent = `of ${video.frames}`;
    strip.open(video.frames, session.version);
    number = target = $("number").value = Math.min(number, video.frames - 1);
  }
  dress();
  await go(target);
}

function dress() {
  const { objects, drawn, news, results, rounds, job, out, offers } = session;
  view.colours = new Map(objects.map(({ id, colour }) => [id, colour]));
  if (!objects.some(({ id }) => id === desk.object)) desk.object = objects[0].id;
  $("objects").replaceChildren(
    ...objects.map((object) => objectRow(object, desk.object, { choose: chooseObject, rename })),
  );
  strip.update({
    drawn: new Set(drawn),
    doubtful: new Set(results?.doubtful ?? []),
    confidence: results?.confidence ?? [],
  });
  strip.go(number);
  const busy = isBusy();
  $("learn").hidden = busy || results !== null;
  $("correct").hidden = busy || results === null;
  $("learn").disabled = $("correct").disabled = news.length === 0;
  $("cancel").hidden = $("progress").hidden = !busy;
  $("next-doubtful").disabled = !results?.doubtful.length;
  $("play").disabled = false;
  $("remarks").replaceChildren(...(results?.remarks ?? []).map(remarkRow));
  $("out").textContent = `Everything lies in ${out}.`;
  $("download").hidden = $("take").hidden = results === null;
  $("take-button").disabled = busy;
  fillOffers($("what"), offers);
  $("rounds").replaceChildren(...rounds.map((name) => roundRow(name, busy, goBack)));
  $("rounds-title").hidden = rounds.length === 0;
  $("hint").textContent = hint(drawn, news, results, busy);
  progress(job);
  undoButtons();
  if (wanted && isThere(wanted)) download(wanted);
  if (wanted && (isThere(wanted) || ["failed", "cancelled"].includes(job.state))) wanted = null;
}

const isThere = (what) => session.offers.some((offer) => offer.what === what && offer.there);
const rename = (id, name) => attempt(() => post("objects", { id, name }));
const goBack = (round) => attempt(() => post("back", { round }));

function progress(job) {
  const bar = $("progress");
  const words = wordsOf(job);
  if (words) say(words, job.state === "failed");
  if (job.total) bar.value = job.done / job.total;
  else bar.removeAttribute("value");
}

function chooseObject(id) {
  desk.object = id;
  for (const button of $("objects").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.testid === `object-${id}`));
  }
}

// --- frames and masks -----------------------------------------------------------------------------

function picture(frame, width = 0) {
  const key = `${frame}/${width}`;
  if (!pictures.has(key)) {
    if (pictures.size >= KEPT) pictures.delete(pictures.keys().next().value);
    const query = width ? `?width=${width}` : "";
    const loading = getBlob(`frames/${frame}${query}`).then(({ blob }) => createImageBitmap(blob));
    loading.catch(() => pictures.delete(key));
    pictures.set(key, loading);
  }
  return pictures.get(key);
}

async function fetchLabels(frame) {
  const { width, height } = session.video;
  const { blob, source } = await getBlob(`masks/${frame}`);
  return { labels: new Labels(width, height, await decode(blob)), source };
}

async function go(frame, width = 0) {
  if (!session.video) return;
  frame = Math.min(session.video.frames - 1, Math.max(0, frame));
  target = frame;
  const turn = ++shown;
  const before = edits;
  await saving; // all edits up to now
  await attempt(async () => {
    const [image, { labels, source }] = await Promise.all([picture(frame, width), fetchLabels(frame)]);
    if (turn !== shown) return;
    if (frame === number && (edits !== before || desk.labels?.before)) return;
    const known = histories.get(frame);
    const same = known?.ids.every((id, index) => id === labels.ids[index]);
    if (frame !== number) {
      tools.drop();
      if (isLearning()) attempt(() => post("look", { frame }));
    }
    desk.labels = same ? known : labels;
    if (!same) histories.delete(frame);
    if (frame !== number) $("number").value = frame; // else somebody may be typing there
    number = frame;
    $("canvas").dataset.source = source;
    $("canvas").dataset.frame = frame;
    $("look").hidden = source !== "look";
    view.show(image, desk.labels);
    strip.go(frame);
    undoButtons();
  });
}

function edited() {
  const [frame, { ids }] = [number, desk.labels];
  edits++;
  histories.set(frame, desk.labels);
  view.paint();
  undoButtons();
  const bytes = ids.slice();
  saving = saving.then(() => attempt(() => put(`masks/${frame}`, bytes)));
}

function undoButtons() {
  $("undo").disabled = !desk.labels?.done.length;
  $("redo").disabled = !desk.labels?.undone.length;
}

function step(back) {
  if (desk.labels && !desk.isLocked() && (back ? desk.labels.undo() : desk.labels.redo())) edited();
}

async function findBox(box) {
  const frame = number;
  await attempt(async () => {
    const response = await post("box", { frame, box });
    const found = await decode(await response.blob());
    if (frame !== number) return;
    desk.labels.begin();
    desk.labels.add(found, desk.object);
    if (desk.labels.end()) edited();
  }, "Looking for the object in the box …");
}

function replace(ids) {
  desk.labels.begin();
  desk.labels.ids.set(ids);
  if (desk.labels.end()) edited();
}

async function copyBefore() {
  if (!desk.labels || desk.isLocked() || number === 0) return;
  await attempt(async () => replace((await fetchLabels(number - 1)).labels.ids));
}

// --- playing --------------------------------------------------------------------------------------

async function play() {
  isPlaying = !isPlaying;
  $("play").textContent = isPlaying ? "Pause" : "Play";
  const { fps, frames } = session.video;
  const width = Math.min(session.video.width, 960);
  const [start, first] = [performance.now(), number + 1 < frames ? number : 0];
  while (isPlaying) {
    const frame = first + Math.round(((performance.now() - start) / 1000) * fps);
    if (frame >= frames) break;
    for (let ahead = 0; ahead < ADVANCE && frame + ahead < frames; ahead++) picture(frame + ahead, width);
    await go(frame, width);
    await new Promise(requestAnimationFrame);
  }
  isPlaying = false;
  $("play").textContent = "Play";
  await go(number);
}

function nextDoubtful() {
  const doubtful = session.results?.doubtful ?? [];
  if (doubtful.length) go(doubtful.find((frame) => frame > number) ?? doubtful[0]);
}

// --- what a person does ---------------------------------------------------------------------------

function learn() {
  if (!isBusy() && session.drawn?.length && !$("learn").disabled) {
    attempt(async () => {
      await saving;
      await post("learn", { frame: number });
    });
  }
}

function download(what) {
  const link = document.createElement("a");
  link.href = `api/download?what=${what}`;
  link.download = "";
  link.click();
}

// What was not made with the results is made first; `dress` downloads it then.
function takeHome() {
  const what = $("what").value;
  if (isThere(what)) download(what);
  else
    attempt(async () => {
      await post("make", { what });
      wanted = what;
    });
}

function chooseTool(name) {
  tools.choose(name);
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  }
}

function setMode(mode) {
  $("view-mode").value = view.mode = mode;
  view.paint();
}

async function upload(file) {
  await attempt(
    () => postBytes(`upload?name=${encodeURIComponent(file.name)}`, file),
    `Bringing ${file.name} here …`,
  );
}

async function loadMask(file) {
  const query = `name=${encodeURIComponent(file.name)}&object=${desk.object}`;
  await attempt(() => postBytes(`masks/${number}/file?${query}`, file));
}

$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => post("open", { path: $("path").value }), "Opening …");
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => upload($("file").files[0]));
$("load").addEventListener("click", () => $("mask-file").click());
$("mask-file").addEventListener("change", () => loadMask($("mask-file").files[0]));
$("undo").addEventListener("click", () => step(true));
$("redo").addEventListener("click", () => step(false));
$("clear").addEventListener("click", () => {
  if (desk.labels && !desk.isLocked()) replace(new Uint8Array(desk.labels.ids.length));
});
$("copy").addEventListener("click", copyBefore);
$("object-add").addEventListener("click", () =>
  attempt(async () => {
    const { id } = await (await post("objects", {})).json();
    desk.object = id;
  }),
);
$("learn").addEventListener("click", learn);
$("correct").addEventListener("click", learn);
$("cancel").addEventListener("click", () => attempt(() => post("cancel")));
$("take-button").addEventListener("click", takeHome);
$("next-doubtful").addEventListener("click", nextDoubtful);
$("play").addEventListener("click", play);
$("number").addEventListener("change", () => go(Number($("number").value)));
$("view-mode").addEventListener("change", () => setMode($("view-mode").value));
$("opacity").addEventListener("input", () => {
  view.opacity = Number($("opacity").value);
  view.paint();
});
$("size").addEventListener("input", () => tools.setRadius(Number($("size").value) / 2));
tools.onRadius = (radius) => {
  $("size").value = $("size-out").value = Math.max(1, Math.round(2 * radius));
};
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => chooseTool(button.dataset.tool));
}

const KEYS = {
  b: () => chooseTool("brush"),
  e: () => chooseTool("eraser"),
  p: () => chooseTool("polygon"),
  x: () => chooseTool("box"),
  "[": () => tools.setRadius(tools.radius / 1.2),
  "]": () => tools.setRadius(tools.radius * 1.2),
  ",": () => go(target - 1),
  ".": () => go(target + 1),
  ArrowLeft: () => go(target - 1),
  ArrowRight: () => go(target + 1),
  Home: () => go(0),
  End: () => go(session.video.frames - 1),
  " ": play,
  l: learn,
  d: nextDoubtful,
  c: copyBefore,
  v: () => {
    const modes = [...$("view-mode").options].map(({ value }) => value);
    setMode(modes[(modes.indexOf(view.mode) + 1) % modes.length]);
  },
  0: () => {
    view.fit();
    view.draw();
  },
  "+": () => view.zoom(1.25, view.canvas.width / 2, view.canvas.height / 2),
  "-": () => view.zoom(0.8, view.canvas.width / 2, view.canvas.height / 2),
};
onKeys(KEYS, {
  isOpen: () => session.video !== null,
  step,
  chooseNth: (place) => session.objects[place] && chooseObject(session.objects[place].id),
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) upload(file);
  });
}

listen(
  (event) => {
    const before = session.job;
    session.job = event.job;
    if (event.version !== session.version || before.state !== event.job.state) {
      attempt(refresh);
    } else if (session.video) {
      progress(event.job);
      if (event.job.state === "segment") whileFinding(event.job.done);
      else if (event.job.looks !== before.looks) go(target);
    }
  },
  () => say("The studio does not answer. Start it again, and this page goes on.", true),
);

let lastLook = 0;

// Masks appear as they are found: now and then the one on the screen is fetched again.
function whileFinding(done) {
  if (number < done && performance.now() - lastLook > 1000 && !isPlaying) {
    lastLook = performance.now();
    go(target);
  }
}
