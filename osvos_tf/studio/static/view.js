// The frame on the canvas: image, tinted objects with a double outline, zoom and pan, the cursor.

const SHADE = [22, 24, 28];

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.mode = "overlay";
    this.opacity = 0.5;
    this.colours = new Map();
    this.image = null;
    this.labels = null;
    this.layer = null; // what lies over the image, at the frame's size
    this.scale = 1;
    this.left = 0; // of the frame, in pixels of the canvas
    this.top = 0;
    this.cursor = null; // {x, y, radius} in the frame
    this.shape = null; // corners of a polygon or a box that is being drawn
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  show(image, labels) {
    const isNew = !this.labels || this.labels.width !== labels.width || this.labels.height !== labels.height;
    this.image = image;
    this.labels = labels;
    if (isNew) {
      this.layer = new OffscreenCanvas(labels.width, labels.height);
      this.fit();
    }
    this.paint();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.fit();
    this.draw();
  }

  fit() {
    if (!this.labels) return;
    const { width, height } = this.labels;
    this.scale = 0.97 * Math.min(this.canvas.width / width, this.canvas.height / height);
    this.left = (this.canvas.width - width * this.scale) / 2;
    this.top = (this.canvas.height - height * this.scale) / 2;
  }

  zoom(factor, x, y) {
    const scale = Math.min(40, Math.max(0.05, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.draw();
  }

  // From a pointer's place on the page to canvas and frame pixels.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const [cx, cy] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    return { cx, cy, x: (cx - this.left) / this.scale - 0.5, y: (cy - this.top) / this.scale - 0.5 };
  }

  // Renders the labels into the layer, then all to the canvas.
  paint() {
    if (!this.labels) return;
    const { width, height, ids } = this.labels;
    const context = this.layer.getContext("2d");
    const pixels = context.createImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    const alpha = Math.round(this.opacity * 255);
    const table = new Uint32Array(256);
    for (const [id, [r, g, b]] of this.colours) table[id] = rgba(r, g, b, alpha);
    const unit = Math.max(1, Math.round(Math.min(width, height) / 480));
    const [white, dark] = [rgba(255, 255, 255, 255), rgba(20, 20, 20, 255)];
    if (this.mode === "cutout") {
      for (let i = 0; i < ids.length; i++) if (!ids[i]) out[i] = rgba(...SHADE, 255);
    } else if (this.mode !== "frame") {
      if (this.mode === "overlay") for (let i = 0; i < ids.length; i++) out[i] = table[ids[i]];
      const line = new Uint32Array(256);
      for (const [id, [r, g, b]] of this.colours) line[id] = rgba(r, g, b, 255);
      for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0; x < width; x++, i++) {
          const id = ids[i];
          const differs =
            (x >= unit && ids[i - unit] !== id) ||
            (x + unit < width && ids[i + unit] !== id) ||
            (y >= unit && ids[i - unit * width] !== id) ||
            (y + unit < height && ids[i + unit * width] !== id);
          if (differs) out[i] = id ? white : dark;
          else if (id && this.mode === "contour" && this.isNear(x, y, 3 * unit)) out[i] = line[id];
        }
      }
    }
    context.putImageData(pixels, 0, 0);
    this.draw();
  }

  isNear(x, y, reach) {
    const { width, height, ids } = this.labels;
    const id = ids[y * width + x];
    for (const [dx, dy] of [
      [reach, 0],
      [-reach, 0],
      [0, reach],
      [0, -reach],
    ]) {
      const [cx, cy] = [x + dx, y + dy];
      if (cx >= 0 && cy >= 0 && cx < width && cy < height && ids[cy * width + cx] !== id) return true;
    }
    return false;
  }

  draw() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.labels) return;
    context.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    const { width, height } = this.labels;
    if (this.image) context.drawImage(this.image, 0, 0, width, height);
    context.drawImage(this.layer, 0, 0);
    if (this.shape) this.outline(this.shape);
    if (this.cursor) this.ring(this.cursor);
  }

  outline(points) {
    const { context } = this;
    for (const [colour, line] of [
      ["#000", 4],
      ["#fff", 2],
    ]) {
      context.beginPath();
      for (const { x, y } of points) context.lineTo(x + 0.5, y + 0.5);
      if (points.closed) context.closePath();
      context.strokeStyle = colour;
      context.lineWidth = line / this.scale;
      context.stroke();
    }
    for (const { x, y } of points) {
      context.fillStyle = "#fff";
      context.fillRect(x + 0.5 - 3 / this.scale, y + 0.5 - 3 / this.scale, 6 / this.scale, 6 / this.scale);
    }
  }

  ring({ x, y, radius }) {
    const { context } = this;
    for (const [colour, line] of [
      ["#000", 3],
      ["#fff", 1.5],
    ]) {
      context.beginPath();
      context.arc(x + 0.5, y + 0.5, Math.max(radius, 2 / this.scale), 0, 2 * Math.PI);
      context.strokeStyle = colour;
      context.lineWidth = line / this.scale;
      context.stroke();
    }
  }
}

function rgba(r, g, b, a) {
  return ((a << 24) | (b << 16) | (g << 8) | r) >>> 0; // as the bytes of a little-endian machine lie
}
