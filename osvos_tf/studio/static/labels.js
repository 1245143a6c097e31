// A frame's label map, an id a pixel with hard edges, and what can be drawn on it and undone.

const UNDO_BYTES = 2 ** 26;

export class Labels {
  constructor(width, height, ids = new Uint8Array(width * height)) {
    Object.assign(this, { width, height, ids });
    this.undone = [];
    this.done = [];
    this.before = null;
  }

  // All changes between begin and end are undone as one. Returns what changed, or null.
  begin() {
    this.before = this.ids.slice();
  }

  end() {
    const box = this.difference(this.before);
    if (box) {
      this.done.push({ ...box, ids: this.cut(this.before, box) });
      this.undone = [];
      let bytes = this.done.reduce((sum, patch) => sum + patch.ids.length, 0);
      while (bytes > UNDO_BYTES && this.done.length > 1) bytes -= this.done.shift().ids.length;
    }
    this.before = null;
    return box;
  }

  // Back to begin().
  abandon() {
    this.ids.set(this.before);
    this.before = null;
  }

  undo() {
    return this.swap(this.done, this.undone);
  }

  redo() {
    return this.swap(this.undone, this.done);
  }

  swap(from, to) {
    const patch = from.pop();
    if (!patch) return false;
    to.push({ ...patch, ids: this.cut(this.ids, patch) });
    for (let row = 0; row < patch.height; row++) {
      const part = patch.ids.subarray(row * patch.width, (row + 1) * patch.width);
      this.ids.set(part, (patch.y + row) * this.width + patch.x);
    }
    return true;
  }

  cut(ids, { x, y, width, height }) {
    const part = new Uint8Array(width * height);
    for (let row = 0; row < height; row++) {
      const start = (y + row) * this.width + x;
      part.set(ids.subarray(start, start + width), row * width);
    }
    return part;
  }

  difference(before) {
    let [left, top, right, bottom] = [this.width, this.height, -1, -1];
    for (let y = 0, i = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, i++) {
        if (before[i] !== this.ids[i]) {
          if (x < left) left = x;
          if (x > right) right = x;
          if (y < top) top = y;
          bottom = y;
        }
      }
    }
    if (right < 0) return null;
    return { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
  }

  disc(x, y, radius, id) {
    const reach = Math.max(0.5, radius);
    for (let row = Math.ceil(y - reach); row <= y + reach; row++) {
      if (row < 0 || row >= this.height) continue;
      const half = Math.sqrt(reach * reach - (row - y) ** 2);
      const from = Math.max(0, Math.ceil(x - half));
      const to = Math.min(this.width - 1, Math.floor(x + half));
      if (from <= to) this.ids.fill(id, row * this.width + from, row * this.width + to + 1);
    }
  }

  line(from, to, radius, id) {
    const length = Math.hypot(to.x - from.x, to.y - from.y);
    const steps = Math.max(1, Math.ceil(length / Math.max(1, radius / 3)));
    for (let step = 0; step <= steps; step++) {
      const part = step / steps;
      this.disc(from.x + (to.x - from.x) * part, from.y + (to.y - from.y) * part, radius, id);
    }
  }

  polygon(points, id) {
    const canvas = new OffscreenCanvas(this.width, this.height);
    const context = canvas.getContext("2d");
    context.beginPath();
    for (const { x, y } of points) context.lineTo(x + 0.5, y + 0.5);
    context.fill("evenodd");
    const { data } = context.getImageData(0, 0, this.width, this.height);
    for (let i = 0; i < this.ids.length; i++) if (data[4 * i + 3] > 127) this.ids[i] = id;
  }

  // Of a box: what was found becomes the object.
  add(found, id) {
    for (let i = 0; i < this.ids.length; i++) if (found[i]) this.ids[i] = id;
  }
}

// A grey PNG, whose values are ids, to bytes.
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const ids = new Uint8Array(bitmap.width * bitmap.height);
  for (let i = 0; i < ids.length; i++) ids[i] = data[4 * i];
  bitmap.close();
  return ids;
}
