// Asks a server for masks over REST, from Node.js or a page: no package, made to be copied.
//
//     node masks.mjs http://localhost:8501 dog frame.jpg mask.png
//
// The server is TensorFlow Serving or `osvos-serve` (from a page: with --cors, or TensorFlow Serving's
// --rest_api_enable_cors_support), the model an export of `export_saved_model`.

const TRIES = 5; // of which each waits twice as long as the one before, where the server is busy

// From the bytes of a JPEG or PNG to those of a PNG: 0, and 255 or the objects' ids.
export async function mask(server, model, image) {
  const url = `${server.replace(/\/$/, "")}/v1/models/${encodeURIComponent(model)}:predict`;
  const instances = [{ image_bytes: { b64: toBase64(image) } }];
  const body = JSON.stringify({ signature_name: "encoded", instances });
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(url, { method: "POST", body });
    if (answer.ok) return fromBase64((await answer.json()).predictions[0].b64);
    if (![429, 503].includes(answer.status) || attempt === TRIES - 1) {
      throw new Error(`${url}: ${answer.status}, ${await answer.text()}`);
    }
    await new Promise((resume) => setTimeout(resume, 250 * 2 ** attempt));
  }
}

function toBase64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

if (globalThis.process?.argv[1]?.endsWith("masks.mjs")) {
  const [server, model, source, target] = process.argv.slice(2);
  if (!target) {
    console.error("Wanted: node masks.mjs SERVER MODEL IMAGE MASK");
    process.exit(2);
  }
  const { readFile, writeFile } = await import("node:fs/promises");
  try {
    await writeFile(target, await mask(server, model, await readFile(source)));
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
