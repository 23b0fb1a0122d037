"use strict";
// The page: takes an image, has it segmented (network.js), shows and saves what comes back.

const at = (id) => document.getElementById(id);
const view = at("view"), photo = at("photo"), overlay = at("overlay"), tip = at("tip");
const CONTOUR = 0.4; // of a class's colour, where it ends: as the overlays of `deeplab predict`
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

let about, worker, file, result; // model.json; of the last image its file and what was found
let shown = []; // of each class, whether it is painted
let order = 0; // of the last image
let cross = null; // [x, y] of 0 to 1, where the arrow keys are

// ---- messages
const say = (text) => (at("status").textContent = text);
const fail = (text = "") => Object.assign(at("error"), { textContent: text, hidden: !text });

function stop(text) {
  worker?.terminate();
  worker = null;
  at("progress").hidden = true;
  fail(text);
  say("");
}

const hear = {
  about(found) {
    about = found;
    shown = about.classes.map(({ name }) => name !== "background");
    at("name").textContent = document.title = about.name;
  },
  loading: (megabytes) => say(`Loading the network, ${megabytes} MB.`),
  progress: (share) => Object.assign(at("progress"), { value: share, hidden: false }),
  ready() {
    at("progress").hidden = true;
    if (!file) say("Ready.");
  },
  running: (name) => say(`Segmenting ${name}.`),
  fatal: stop,
};

function start() {
  if (location.protocol === "file:")
    return stop("A browser does not start a network from a file. Run `deeplab serve FOLDER`, or put the folder on any web server, and open the address.");
  if (!self.OffscreenCanvas || !self.WebAssembly || !self.CompressionStream)
    return stop("This browser is too old: take one of 2023 or later.");
  worker = new Worker(`network.js${location.search}`, { type: "module" });
  worker.onerror = () => stop("network.js cannot be started: copy the whole folder that the export wrote.");
  worker.onmessage = ({ data: { id, ...told } }) => {
    if (id === undefined) for (const what in told) hear[what](told[what]);
    else if (id === order) told.error ? refuse(told.error) : show(told.result); // else another came
  };
  say("Loading the network.");
}

// ---- an image comes
function take(found) {
  if (!worker) return;
  if (!found?.type.startsWith("image/")) return fail(`${found?.name ?? "That"} is not an image.`);
  fail();
  file = found;
  result = cross = null;
  const url = URL.createObjectURL(file), asked = ++order;
  photo.onload = () => asked === order && reveal();
  photo.src = url;
  photo.decode().catch(() => {}).finally(() => URL.revokeObjectURL(url));
  photo.alt = file.name;
  at("panel").hidden = tip.hidden = at("cross").hidden = at("divider").hidden = true;
  say(`Reading ${file.name}.`);
  worker.postMessage({ file, id: order });
}

function refuse(text) {
  order += 1; // its image may still come
  file = null;
  [view.hidden, at("empty").hidden] = [true, false];
  fail(text);
  say("");
}

function reveal() {
  const shape = photo.naturalWidth / photo.naturalHeight;
  Object.assign(view.style, { aspectRatio: shape, width: `${78 * shape}vh` });
  if (!result) overlay.width = 1; // empties it
  [view.hidden, at("empty").hidden] = [false, true];
}

function show(found) {
  result = found;
  const { labels, scaled, size, seconds, runtime, transparent } = result;
  const shares = about.classes.map(() => 0);
  for (const id of labels) shares[id] += 1 / labels.length;
  const present = [...shares.keys()].filter((id) => shares[id]).sort((a, b) => shares[b] - shares[a]);
  const described = present.map((id) => `${about.classes[id].name} ${percent(shares[id])}`);
  at("classes").replaceChildren(...present.map((id) => row(id, shares[id])));
  overlay.ariaLabel = `Classes of ${file.name}: ${described.join(", ")}. Arrow keys read the class at a place.`;
  at("note").textContent = [
    `${size[1]} × ${size[0]} pixels`,
    ...(scaled[0] === size[0] ? [] : [`seen at ${scaled[1]} × ${scaled[0]}`]),
    `${seconds.toFixed(2)} s, ${runtime}`,
    ...(transparent ? ["transparent parts are read as black"] : []),
  ].join("; ") + ".";
  say(`${file.name}: ${described.slice(0, 3).join(", ")}.`);
  at("panel").hidden = at("divider").hidden = false;
  paint();
}

function row(id, share) {
  const { name, color } = about.classes[id], item = document.createElement("li");
  item.innerHTML = "<label><input type=checkbox><i></i><span></span><small></small></label>";
  const [box, swatch, title, part] = item.firstChild.children;
  Object.assign(box, { checked: shown[id], onchange: () => ((shown[id] = box.checked), paint()) });
  swatch.style.background = `rgb(${color})`;
  title.textContent = name;
  part.textContent = percent(share);
  return item;
}

// ---- what is seen
function paint() {
  const { labels, scaled: [h, w] } = result, pixels = new Uint32Array(h * w);
  const [inside, edge] = [1, CONTOUR].map((light) => about.classes.map(({ color: [r, g, b] }, id) =>
    shown[id] ? (255 << 24) | ((b * light) << 16) | ((g * light) << 8) | (r * light) : 0));
  for (let y = 0, i = 0; y < h; y++) {
    for (let x = 0; x < w; x++, i++) {
      const id = labels[i];
      const ends = (x && labels[i - 1] !== id) || (x < w - 1 && labels[i + 1] !== id)
        || (y && labels[i - w] !== id) || (y < h - 1 && labels[i + w] !== id);
      pixels[i] = (ends ? edge : inside)[id];
    }
  }
  Object.assign(overlay, { width: w, height: h });
  overlay.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), w, h), 0, 0);
  look();
}

function look() {
  for (const id of ["opacity", "before"]) document.querySelector(`output[for=${id}]`).textContent = `${at(id).value} %`;
  overlay.style.opacity = at("opacity").value / 100;
  overlay.style.clipPath = `inset(0 0 0 ${at("before").value}%)`;
  at("divider").style.left = `clamp(1px, ${at("before").value}%, 100% - 1px)`;
}

// The class and its probability at a place, x and y of 0 to 1: its logits lie between four.
function probe(x, y) {
  const { labels, logits, dims: [, rows, columns], box, scaled: [h, w] } = result;
  const i = clamp(Math.floor(y * h), 0, h - 1), j = clamp(Math.floor(x * w), 0, w - 1), id = labels[i * w + j];
  const above = (i * (rows - 1)) / (box[0] - 1), left = (j * (columns - 1)) / (box[1] - 1);
  const scores = about.classes.map(() => 0);
  for (let r = Math.floor(above); r < above + 1; r++)
    for (let k = Math.floor(left); k < left + 1; k++)
      for (const c of scores.keys())
        scores[c] += logits[(r * columns + k) * scores.length + c] * (1 - Math.abs(above - r)) * (1 - Math.abs(left - k));
  const total = scores.reduce((sum, score) => sum + Math.exp(score - scores[id]), 0);
  tip.textContent = `${about.classes[id].name} ${(100 / total).toFixed(0)} %`;
  tip.hidden = false;
  const across = x * view.clientWidth, down = y * view.clientHeight;
  tip.style.left = `${clamp(across + 16, 0, view.clientWidth - tip.offsetWidth)}px`;
  tip.style.top = `${down > 56 ? down - 48 : down + 24}px`;
}

function probeByPointer({ clientX, clientY }) {
  if (!result) return;
  const box = view.getBoundingClientRect();
  at("cross").hidden = true;
  probe((clientX - box.left) / box.width, (clientY - box.top) / box.height);
}

function probeByKey(event) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
  if (!result || dx === undefined) return;
  event.preventDefault();
  const step = event.shiftKey ? 0.1 : 0.02;
  cross = cross ? [clamp(cross[0] + dx * step, 0, 1), clamp(cross[1] + dy * step, 0, 1)] : [0.5, 0.5];
  at("cross").hidden = false;
  Object.assign(at("cross").style, { left: `${100 * cross[0]}%`, top: `${100 * cross[1]}%` });
  probe(...cross);
  say(`${tip.textContent}, ${(100 * cross[0]).toFixed(0)} % from the left, ${(100 * cross[1]).toFixed(0)} % from the top.`);
}

// ---- what is saved
// For each of `to` pixels which of `from` is nearest, as Pillow finds it: its places are sums.
function nearest(from, to) {
  const found = new Uint32Array(to);
  for (let i = 0, place = from / to / 2; i < to; i++, place += from / to) found[i] = place;
  return found;
}

// The class ids u8[height * width] at the image's own size, as of `deeplab predict`.
function enlarge({ labels, scaled: [h, w], size: [height, width] }) {
  const rows = nearest(h, height), columns = nearest(w, width);
  return new Uint8Array(height * width).map((_, i) => labels[rows[Math.trunc(i / width)] * w + columns[i % width]]);
}

// A piece of a PNG: length, name, content, CRC-32.
function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length), numbers = new DataView(bytes.buffer);
  numbers.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(content, 8);
  let sum = -1;
  for (const byte of bytes.subarray(4, -4)) {
    sum ^= byte;
    for (let i = 0; i < 8; i++) sum = (sum >>> 1) ^ (sum & 1 && 0xedb88320);
  }
  numbers.setInt32(8 + content.length, ~sum);
  return bytes;
}

// A PNG of one byte a pixel: a canvas can save neither ids nor a palette.
async function png(bytes, width, height, palette) {
  const lines = new Uint8Array(height * (width + 1)); // each begins with its filter, none
  for (let y = 0; y < height; y++) lines.set(bytes.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate")));
  const header = new Uint8Array(13), numbers = new DataView(header.buffer);
  [width, height].forEach((n, i) => numbers.setUint32(4 * i, n));
  header.set([8, palette ? 3 : 0], 8);
  const parts = [chunk("IHDR", header), ...(palette ? [chunk("PLTE", palette)] : [])];
  parts.push(chunk("IDAT", new Uint8Array(await packed.arrayBuffer())), chunk("IEND", []));
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...parts], { type: "image/png" });
}

const makers = {
  ids: (width, height) => png(enlarge(result), width, height),
  colors: (width, height) => png(enlarge(result), width, height, about.classes.flatMap(({ color }) => color)),
  async overlay(width, height) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0, width, height);
    Object.assign(context, { globalAlpha: at("opacity").value / 100, imageSmoothingEnabled: false });
    context.drawImage(overlay, 0, 0, width, height);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  },
};

async function save(kind) {
  const download = `${file.name.replace(/\.[^.]*$/, "")}_${kind}.png`;
  const blob = await makers[kind](result.size[1], result.size[0]).catch(() => null);
  if (!blob) return fail("This browser cannot make an image of this size.");
  const link = Object.assign(document.createElement("a"), { download, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`Saved ${download}.`);
}

// ---- what the user does
for (const id of ["file", "camera"]) {
  at(id).onchange = ({ target }) => {
    if (target.files[0]) take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  };
}
addEventListener("paste", ({ clipboardData }) => take(clipboardData.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
for (const kind of ["pointermove", "pointerdown"]) view.addEventListener(kind, probeByPointer);
view.addEventListener("pointerleave", ({ pointerType }) => (tip.hidden ||= pointerType === "mouse"));
overlay.addEventListener("keydown", probeByKey);
overlay.addEventListener("blur", () => (tip.hidden = at("cross").hidden = true));
at("divider").onpointerdown = ({ target, pointerId }) => target.setPointerCapture(pointerId);
at("divider").onpointermove = ({ target, pointerId, clientX }) => {
  const box = view.getBoundingClientRect();
  if (target.hasPointerCapture(pointerId)) at("before").value = (100 * (clientX - box.left)) / box.width, look();
};
for (const id of ["opacity", "before"]) at(id).oninput = look;
for (const button of document.querySelectorAll("[data-save]")) button.onclick = () => save(button.dataset.save);
start();
