// The page of a served classifier. Text of users and of the server is only ever set as text, never as markup.
"use strict";

const AT_ONCE = 3; // requests: enough to fill a batch, too few to fill the queue of others
const MOST_TRIES = 5; // of a picture for which the server had no room
const find = (id) => document.getElementById(id);
const waiting = [];
let limits = null; // what /model says
let numAsking = 0;

// --- the server ------------------------------------------------------------------------------------------------------

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function problemOf(response) {
  if (response.status === 401) find("token-form").hidden = false;
  const told = await response.json().catch(() => ({}));
  return told.detail ? `${told.detail} (${told.code})` : `The server answered ${response.status}.`;
}

async function pause(seconds) {
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

async function ask(path, options) {
  for (let tries = 1; ; tries++) {
    const response = await fetch(path, options);
    const again = response.status === 429 || response.status === 503;
    if (!again || tries === MOST_TRIES) return response;
    await pause(Number(response.headers.get("Retry-After")) || 1);
  }
}

function post(path, file) {
  const type = file.type || "application/octet-stream";
  return ask(path, { method: "POST", headers: headers({ "Content-Type": type }), body: file });
}

async function greet() {
  try {
    const response = await ask("model", { headers: headers() });
    if (!response.ok) {
      find("about").textContent = await problemOf(response);
      return;
    }
    limits = await response.json();
  } catch {
    find("about").textContent = "The server does not answer.";
    return;
  }
  find("token-form").hidden = true;
  find("name").textContent = limits.name;
  document.title = limits.name;
  const [height, width] = limits.image_size;
  find("about").textContent = `${limits.classes.length} classes, images of ${height} × ${width} pixels`;
  find("limits").textContent = `JPEG, PNG or WebP, up to ${megabytes(limits.max_bytes)}`;
}

// --- pictures --------------------------------------------------------------------------------------------------------

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 0)} MB`;
}

function addPictures(files) {
  for (const file of files) {
    const card = find("card").content.firstElementChild.cloneNode(true);
    const image = card.querySelector(".picture img");
    card.classList.add("waiting");
    card.querySelector(".picture figcaption").textContent = file.name;
    card.querySelector(".picture figcaption").title = file.name;
    image.alt = file.name;
    image.onerror = () => card.querySelector(".picture").classList.add("broken");
    image.src = URL.createObjectURL(file);
    find("cards").append(card);
    waiting.push({ file, card });
  }
  showProgress();
  askNext();
}

function askNext() {
  while (waiting.length && numAsking < AT_ONCE) {
    numAsking++;
    answer(waiting.shift()).finally(() => {
      numAsking--;
      showProgress();
      askNext();
    });
  }
}

async function answer({ file, card }) {
  if (limits && file.size > limits.max_bytes) {
    showProblem(card, `The file has ${megabytes(file.size)}, more than ${megabytes(limits.max_bytes)}. (too_large_bytes)`);
    return;
  }
  try {
    const started = performance.now();
    const response = await post("predict?top=5", file);
    if (!response.ok) {
      showProblem(card, await problemOf(response));
      return;
    }
    const prediction = await response.json();
    showAnswer(card, file, prediction, performance.now() - started, response.headers.get("Server-Timing"));
  } catch {
    showProblem(card, "The server does not answer.");
  }
}

function showAnswer(card, file, prediction, milliseconds, timing) {
  card.classList.remove("waiting");
  card.querySelector(".verdict").textContent = prediction.label;
  card.querySelector(".bars").replaceChildren(...prediction.top.map(([label, probability]) => bar(label, probability)));
  const server = /dur=([\d.]+)/.exec(timing ?? "");
  const inside = server ? `, ${Math.round(server[1])} ms of them in the server` : "";
  card.querySelector(".latency").textContent = `${Math.round(milliseconds)} ms${inside}`;
  if (limits?.methods.length) offerLook(card, file, limits.methods);
}

function bar(label, probability) {
  const row = find("bar").content.firstElementChild.cloneNode(true);
  row.querySelector(".label").textContent = label;
  row.querySelector(".percent").textContent = `${(100 * probability).toFixed(1)} %`;
  row.querySelector(".fill").style.width = `${100 * probability}%`;
  return row;
}

function showProblem(card, text) {
  card.classList.remove("waiting");
  card.classList.add("wrong");
  card.querySelector(".verdict").textContent = "No answer";
  card.querySelector(".problem").textContent = text;
  card.querySelector(".problem").hidden = false;
}

function showProgress() {
  const count = (kind) => document.querySelectorAll(`.card${kind}`).length;
  const [all, open, wrong] = [count(""), count(".waiting"), count(".wrong")];
  const answered = open ? `${all - open - wrong} of ${all} answered` : `${all - wrong} answered`;
  find("toolbar").hidden = all === 0;
  find("progress").textContent = wrong ? `${answered}, ${wrong} not` : answered;
}

function clear() {
  waiting.length = 0;
  for (const image of document.querySelectorAll(".picture img")) URL.revokeObjectURL(image.src);
  find("cards").replaceChildren();
  showProgress();
  find("files").focus();
}

// --- what people do --------------------------------------------------------------------------------------------------

const drop = find("drop");
find("files").addEventListener("change", (event) => {
  addPictures(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", (event) => addPictures(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  addPictures(event.dataTransfer.files);
});
find("clear").addEventListener("click", clear);
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", find("token").value);
  greet();
});
greet();
