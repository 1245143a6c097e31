// The panel beside the frame: rows of its lists, and what it says.

const count = (number, word) => (number === 1 ? `1 ${word}` : `${number} ${word}s`);

export function hint(drawn, news, results, busy) {
  if (busy) return "You can look around meanwhile.";
  if (!drawn.length && !results) return "Mark the object in one frame: brush it, or drag a box around it.";
  if (!results) return `Drawn: ${count(drawn.length, "frame")}. Learn when you are ready.`;
  if (!news.length)
    return "Look through the frames. Where a mask is wrong, correct it, then learn from that too.";
  return `New: ${count(news.length, "frame")}. Learn from that too when you are ready.`;
}

const WHAT = { learn: "Learning", segment: "Finding", save: "Writing" };

// Of a job's state; nothing where there is nothing to say.
export function wordsOf(job) {
  if (job.state in WHAT) {
    if (!job.total) return `${WHAT[job.state]}: ${job.done}`;
    const left = Math.round((job.seconds / job.done) * (job.total - job.done));
    return `${WHAT[job.state]}: ${job.done} of ${job.total}, ${left} s left`;
  }
  return {
    starting: "Starting …",
    failed: job.error,
    cancelled: "Cancelled. What was there before is there.",
    done: "Done.",
  }[job.state];
}

export function objectRow({ id, name, colour }, chosen, { choose, rename }) {
  const button = element("button");
  button.dataset.testid = `object-${id}`;
  button.setAttribute("aria-pressed", String(id === chosen));
  button.title = `Draw this object (${id}); double-click to rename`;
  const patch = element("i");
  patch.style.background = `rgb(${colour})`;
  button.append(patch, name);
  button.addEventListener("click", () => choose(id));
  button.addEventListener("dblclick", () => {
    const wanted = prompt("Name of the object", name);
    if (wanted !== null) rename(id, wanted);
  });
  return row(button);
}

export function roundRow(name, busy, goBack) {
  const button = element("button", "Go back");
  button.dataset.testid = `round-${name}`;
  button.disabled = busy;
  button.addEventListener("click", () => goBack(name));
  return row(`Before round ${Number(name)}`, button);
}

export const remarkRow = (words) => row(words);

export function fillOffers(select, offers) {
  const before = select.value;
  const shown = offers.filter(({ what }) => what !== "all");
  select.replaceChildren(
    ...shown.map(({ what, words }) => Object.assign(element("option", words), { value: what })),
  );
  if (shown.some(({ what }) => what === before)) select.value = before;
}

function row(...content) {
  const made = element("li");
  made.append(...content);
  return made;
}

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
