// What the classifier looked at: layers of colour over the image as the network saw it, for a place that can be chosen.
"use strict";

const TITLES = {
  grad_cam: "Grad-CAM",
  integrated_gradients: "Integrated gradients",
  rollout: "Attention rollout",
  receptive_field: "Receptive field of a place",
  attention: "Attention of a place",
};
// What each shows, and how far it can be trusted: over 200 pictures (docs/explanations.md).
const NOTES = {
  grad_cam: "Where features speak for this class. A rough hint: in tests it was no better than chance.",
  integrated_gradients: "What each pixel adds (red) or takes away (blue). In tests the most faithful of these.",
  rollout: "From where information reaches the answer, whatever the class.",
  receptive_field: "Which pixels the layer sees from the marked place.",
  attention: "What the marked place attends to, mean over the heads.",
};
const FIRST = "grad_cam"; // one pass: an answer at once; whoever wants a dear one chooses it
const OF_A_PLACE = ["receptive_field", "attention"];
const STEP = 1 / 14; // of an arrow key: a token of the coarsest common grid but one, at 224 pixels
const SETTLED = 250; // milliseconds without a key before the server is asked
const dataUrl = (png) => `data:image/png;base64,${png}`;

function offerLook(card, file, methods) {
  const button = card.querySelector(".why");
  button.hidden = false;
  button.addEventListener("click", () => {
    button.hidden = true;
    card.querySelector(".look").hidden = false;
    card.classList.add("open");
    new Look(card.querySelector(".look"), file, methods).ask();
    card.querySelector(".method").focus();
  });
}

class Look {
  constructor(element, file, methods) {
    this.element = element;
    this.file = file;
    this.place = { row: 0.5, column: 0.5 };
    this.found = null;
    this.numAsked = 0;
    this.part(".method").replaceChildren(...methods.map((method) => new Option(TITLES[method] ?? method, method)));
    if (methods.includes(FIRST)) this.part(".method").value = FIRST;
    this.part(".method").addEventListener("change", () => this.ask());
    this.part(".depth").addEventListener("change", () => this.show());
    this.part(".strength").addEventListener("input", () => this.show());
    this.part(".again").addEventListener("click", () => this.ask());
    this.part(".stage").addEventListener("click", (event) => this.click(event));
    this.part(".stage").addEventListener("keydown", (event) => this.key(event));
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  get method() {
    return this.part(".method").value;
  }

  async ask() {
    const number = ++this.numAsked; // an answer that another question overtook is not shown
    this.element.classList.add("busy");
    this.part(".again").hidden = true;
    this.part(".hint").textContent = "Looking …";
    this.showPlace();
    const { row, column } = this.place;
    let text = "";
    try {
      const response = await post(`explain?method=${this.method}&row=${row}&column=${column}`, this.file);
      if (number !== this.numAsked) return;
      if (response.ok) this.found = await response.json();
      else text = await problemOf(response);
    } catch {
      text = "The server does not answer.";
    }
    this.element.classList.remove("busy");
    if (text) {
      this.found = null;
      this.part(".layer").removeAttribute("src");
      this.part(".parts").hidden = true;
      this.part(".depth").replaceChildren();
      this.part(".hint").textContent = text;
      this.part(".again").hidden = false;
      return;
    }
    this.offerDepths();
    this.show();
  }

  offerDepths() {
    const titles = this.found.layers.map((layer) => layer.title);
    const before = this.part(".depth").value;
    this.part(".depth").replaceChildren(...titles.map((title) => new Option(title, title)));
    this.part(".depth").value = titles.includes(before) ? before : titles.at(-1);
  }

  show() {
    if (!this.found) return;
    const { layers, parts, image, label } = this.found;
    const index = this.part(".depth").selectedIndex;
    this.part(".seen").src = dataUrl(image);
    this.part(".layer").src = dataUrl(layers[index].png);
    this.part(".layer").style.opacity = this.part(".strength").value / 100;
    this.part(".parts").hidden = !parts.length;
    if (parts.length) this.part(".parts img").src = dataUrl(parts[index].png);
    const choose = OF_A_PLACE.includes(this.method) ? " Click the picture, or use the arrow keys on it, to move it." : "";
    this.part(".hint").textContent = `${NOTES[this.method] ?? ""}${choose} Drawn over the picture as the network saw it.`;
    this.part(".stage").setAttribute("aria-label", `${layers[index].title} for ${label}`);
    this.showPlace();
  }

  showPlace() {
    const mark = this.part(".place");
    mark.hidden = !OF_A_PLACE.includes(this.method);
    mark.style.top = `${100 * this.place.row}%`;
    mark.style.left = `${100 * this.place.column}%`;
  }

  choose(row, column) {
    const inside = (share) => Math.min(Math.max(share, 0), 0.999);
    this.place = { row: inside(row), column: inside(column) };
    if (!OF_A_PLACE.includes(this.method)) this.part(".method").value = "attention";
    this.showPlace();
  }

  click(event) {
    const box = this.part(".stage").getBoundingClientRect();
    this.choose((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
    this.ask();
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    this.choose(this.place.row + down * STEP, this.place.column + right * STEP);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.ask(), SETTLED);
  }
}
