// The film strip: only the pictures in sight exist, so that a long video is no heavier than a short one.

const WIDTH = 112;
const GAP = 4;

export class Strip {
  constructor(element, onChoose) {
    this.element = element;
    this.rail = element.querySelector("#rail");
    this.onChoose = onChoose;
    this.frames = 0;
    this.current = 0;
    this.stamp = 0;
    this.shown = new Map(); // number -> figure
    this.state = { drawn: new Set(), doubtful: new Set(), confidence: [] };
    element.addEventListener("scroll", () => this.render());
    new ResizeObserver(() => this.render()).observe(element);
    this.rail.addEventListener("click", (event) => {
      const figure = event.target.closest("figure");
      if (figure) this.onChoose(Number(figure.dataset.number));
    });
  }

  open(frames, stamp) {
    this.frames = frames;
    this.stamp = stamp;
    this.rail.style.width = `${frames * (WIDTH + GAP)}px`;
    for (const figure of this.shown.values()) figure.remove();
    this.shown.clear();
    this.render();
  }

  update(state) {
    this.state = state;
    for (const [number, figure] of this.shown) this.dress(number, figure);
  }

  go(number) {
    this.current = number;
    const [left, width] = [number * (WIDTH + GAP), this.element.clientWidth];
    if (left < this.element.scrollLeft || left + WIDTH > this.element.scrollLeft + width) {
      this.element.scrollLeft = left - width / 2 + WIDTH / 2;
    }
    this.update(this.state);
  }

  render() {
    const first = Math.max(0, Math.floor(this.element.scrollLeft / (WIDTH + GAP)) - 2);
    const count = Math.ceil(this.element.clientWidth / (WIDTH + GAP)) + 5;
    const last = Math.min(this.frames - 1, first + count);
    for (const [number, figure] of this.shown) {
      if (number < first || number > last) {
        figure.remove();
        this.shown.delete(number);
      }
    }
    for (let number = first; number <= last; number++) {
      if (this.shown.has(number)) continue;
      const figure = document.createElement("figure");
      figure.dataset.number = number;
      figure.style.left = `${number * (WIDTH + GAP)}px`;
      figure.style.width = `${WIDTH}px`;
      const image = document.createElement("img");
      image.src = `api/frames/${number}?width=${WIDTH * 2}&of=${this.stamp}`;
      image.alt = `Frame ${number}`;
      image.loading = "lazy";
      image.draggable = false;
      figure.append(image, document.createElement("i"));
      this.rail.append(figure);
      this.shown.set(number, figure);
      this.dress(number, figure);
    }
  }

  dress(number, figure) {
    const { drawn, doubtful, confidence } = this.state;
    figure.classList.toggle("current", number === this.current);
    figure.classList.toggle("drawn", drawn.has(number));
    figure.classList.toggle("doubtful", doubtful.has(number));
    const sure = confidence[number];
    figure.querySelector("i").style.width = sure == null ? "0" : `${Math.round(100 * sure)}%`;
    figure.title =
      sure == null ? `Frame ${number}` : `Frame ${number}, confidence ${Math.round(100 * sure)} %`;
  }
}
