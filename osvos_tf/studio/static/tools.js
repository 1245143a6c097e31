// Pointer, pen, touch and keys to edits of the label map. Two fingers zoom and pan.

const REACH = 9; // pixels on the page within which a corner is taken hold of

export class Tools {
  // `desk` has labels, object, isLocked; and is told of changes by edited(), box(corners), words(text).
  constructor(view, desk) {
    Object.assign(this, { view, desk });
    this.tool = "brush";
    this.radius = 12;
    this.last = null; // where the stroke is
    this.panning = null;
    this.corners = []; // of a polygon, or the first of a box
    this.held = null; // number of the corner that is dragged
    this.fingers = new Map(); // pointer -> its place on the canvas
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("dblclick", () => this.close());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  choose(tool) {
    this.tool = tool;
    this.drop();
  }

  drop() {
    this.corners = [];
    this.view.shape = null;
    this.view.draw();
  }

  setRadius(radius) {
    this.radius = Math.min(100, Math.max(0.5, radius));
    if (this.view.cursor) this.hover(this.view.cursor);
    this.onRadius?.(this.radius);
  }

  hover(place) {
    const brushes = this.tool === "brush" || this.tool === "eraser";
    this.view.cursor = place && { x: place.x, y: place.y, radius: brushes ? this.radius : 2 };
    this.view.draw();
  }

  down(event) {
    const place = this.view.place(event);
    this.view.canvas.focus();
    event.preventDefault();
    this.view.canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, place);
      if (this.fingers.size === 2) this.abandon();
      if (this.fingers.size > 1) return;
    }
    if (event.button === 1 || (event.button === 0 && event.altKey)) {
      this.panning = place;
    } else if (event.button === 0 || event.button === 2) {
      if (!this.desk.labels || this.desk.isLocked()) return;
      const tool = event.button === 2 ? "eraser" : this.tool;
      if (tool === "polygon") this.corner(place);
      else if (tool === "box") this.corners = [place];
      else this.startStroke(place, tool);
    }
  }

  // The first of two fingers had begun something.
  abandon() {
    if (this.last) {
      this.last = null;
      this.desk.labels.abandon();
      this.view.paint();
    } else if (this.tool === "box") this.drop();
    else if (this.tool === "polygon" && this.held !== null) this.corners.splice(this.held, 1);
    this.held = null;
  }

  pinch(event, place) {
    const [a, b] = this.fingers.values();
    this.fingers.set(event.pointerId, place);
    const [c, d] = this.fingers.values();
    const [before, now] = [middle(a, b), middle(c, d)];
    this.view.pan(now.cx - before.cx, now.cy - before.cy);
    this.view.zoom(now.length / Math.max(1, before.length), now.cx, now.cy);
  }

  move(event) {
    const place = this.view.place(event);
    if (this.fingers.has(event.pointerId)) {
      if (this.fingers.size > 1) return this.pinch(event, place);
      this.fingers.set(event.pointerId, place);
    }
    if (this.panning) {
      this.view.pan(place.cx - this.panning.cx, place.cy - this.panning.cy);
      this.panning = place;
    } else if (this.last) {
      for (const part of event.getCoalescedEvents?.() ?? [event]) this.stroke(this.view.place(part));
      this.view.paint();
    } else if (this.held !== null) {
      this.corners[this.held] = { x: place.x, y: place.y };
    } else if (this.tool === "box" && this.corners.length) {
      this.rubber(place);
    }
    this.hover(place);
  }

  up(event) {
    this.fingers.delete(event.pointerId);
    this.panning = this.held = null;
    if (this.last) this.endStroke();
    else if (this.tool === "box" && this.corners.length) this.finishBox(this.view.place(event));
  }

  startStroke(place, tool) {
    this.id = tool === "eraser" ? 0 : this.desk.object;
    this.desk.labels.begin();
    this.last = place;
    this.stroke(place);
    this.view.paint();
  }

  stroke(place) {
    this.desk.labels.line(this.last, place, this.radius, this.id);
    this.last = place;
  }

  endStroke() {
    this.last = null;
    if (this.desk.labels.end()) this.desk.edited();
  }

  // A click on the first corner closes the polygon, on another one it takes hold of that.
  corner(place) {
    const reach = (REACH * (window.devicePixelRatio || 1)) / this.view.scale;
    const near = this.corners.findIndex(({ x, y }) => Math.hypot(x - place.x, y - place.y) < reach);
    if (near === 0 && this.corners.length > 2) return this.close();
    if (near < 0) this.corners.push({ x: place.x, y: place.y });
    this.held = near < 0 ? this.corners.length - 1 : near;
    this.view.shape = this.corners;
    this.view.draw();
  }

  close() {
    if (this.tool !== "polygon" || this.corners.length < 3) return;
    const { labels } = this.desk;
    labels.begin();
    labels.polygon(this.corners, this.desk.object);
    if (labels.end()) this.desk.edited();
    this.drop();
    this.view.paint();
  }

  rubber(place) {
    const [from] = this.corners;
    this.view.shape = Object.assign([from, { x: place.x, y: from.y }, place, { x: from.x, y: place.y }], {
      closed: true,
    });
    this.view.draw();
  }

  finishBox(place) {
    const [from] = this.corners;
    this.drop();
    const box = [
      Math.floor(Math.min(from.x, place.x)),
      Math.floor(Math.min(from.y, place.y)),
      Math.ceil(Math.max(from.x, place.x)) + 1,
      Math.ceil(Math.max(from.y, place.y)) + 1,
    ];
    this.desk.box(box);
  }

  wheel(event) {
    event.preventDefault();
    const { cx, cy } = this.view.place(event);
    if (event.ctrlKey || event.metaKey) this.view.zoom(Math.exp(-event.deltaY / 300), cx, cy);
    else this.setRadius(this.radius * Math.exp(-event.deltaY / 500));
  }

  // With the canvas in focus: arrows move the cursor, Enter draws there.
  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.desk.labels || event.ctrlKey || event.metaKey) return;
    const { width, height } = this.desk.labels;
    const at = this.view.cursor ?? { x: width / 2, y: height / 2 };
    if (steps[event.key]) {
      const step = event.shiftKey ? 20 : 4;
      const [dx, dy] = steps[event.key];
      const place = {
        x: Math.min(width - 1, Math.max(0, at.x + dx * step)),
        y: Math.min(height - 1, Math.max(0, at.y + dy * step)),
      };
      this.hover(place);
      if (this.tool === "box" && this.corners.length) this.rubber(place);
    } else if (event.key === "Enter") {
      if (this.desk.isLocked()) return;
      if (this.tool === "polygon") this.enterPolygon(at);
      else if (this.tool === "box") this.corners.length ? this.finishBox(at) : this.corners.push(at);
      else {
        this.startStroke(at, this.tool);
        this.endStroke();
      }
      this.hover(at);
    } else if (event.key === "Backspace" && this.tool === "polygon" && this.corners.length) {
      this.corners.pop();
      this.view.draw();
    } else if (event.key === "Escape") {
      this.drop();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Enter sets a corner; where the last one is, it closes the polygon.
  enterPolygon(at) {
    const last = this.corners.at(-1);
    if (last && last.x === at.x && last.y === at.y) this.close();
    else this.corner(at);
  }
}

function middle(a, b) {
  return { cx: (a.cx + b.cx) / 2, cy: (a.cy + b.cy) / 2, length: Math.hypot(a.cx - b.cx, a.cy - b.cy) };
}
