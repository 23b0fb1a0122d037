// The network, in a worker so that the page stays alive: what is loaded, how an image is brought
// to the network's size, and its run. All arithmetic is that of `deeplab predict`.

const RUNTIMES = {
  webgpu: ["ort/ort.webgpu.bundle.min.mjs", "ort/ort-wasm-simd-threaded.asyncify.wasm"],
  wasm: ["ort/ort.wasm.bundle.min.mjs", "ort/ort-wasm-simd-threaded.wasm"],
};
const MOST_PIXELS = 64 * 2 ** 20; // as `deeplab predict`
const MOST_SEEN = 4e6; // of them by a network of any size: its maps must fit into a browser's memory
const STRIP = 256; // rows that are in memory at a time: canvases of phones are small
const BITS = 22; // of a weight in Pillow's resampling

class Refusal extends Error {} // a sentence for the user

let about, model, ort, session, runtime;
let expected = 0, loaded = 0; // bytes

// ---- loading
async function get(name) {
  const response = await fetch(name).catch((error) => {
    throw new Refusal(`${name} cannot be loaded (${error.message}).`);
  });
  if (response.ok) return response;
  throw new Refusal(`${name} is missing here (${response.status}): copy the whole folder that the export wrote.`);
}

async function read(name) {
  const reader = (await get(name)).body.getReader(), bytes = new Uint8Array(about.files[name]);
  for (let at = 0; ; ) {
    const { done, value = [] } = await reader.read();
    if (at + value.length > bytes.length || (done && at < bytes.length))
      throw new Refusal(`${name} is not the file that the export wrote: copy the whole folder again.`);
    if (done) return bytes;
    bytes.set(value, at);
    at += value.length;
    loaded += value.length;
    postMessage({ progress: loaded / expected });
  }
}

async function open(kind) {
  const [script, binary] = RUNTIMES[kind];
  loaded = model ? model.length : 0;
  expected = about.files["model.onnx"] + about.files[binary];
  postMessage({ loading: Math.round(expected / 1e6) });
  model ??= await read("model.onnx");
  const wasmBinary = await read(binary);
  ort = await import(`./${script}`).catch(async (error) => {
    await get(script); // says what is missing
    throw new Refusal(`The runtime cannot be started in this browser (${error.message}).`);
  });
  // Threads share memory, which takes the two headers that `deeplab serve` sends.
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  Object.assign(ort.env.wasm, { wasmBinary, numThreads: threads });
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
  runtime = kind === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  // Compiles the shaders, and shows whether this device can do it at all.
  const box = inputSize([1, 1]);
  if (kind === "webgpu") await run(new Uint8Array(box[0] * box[1] * about.input.channels), box);
}

async function start() {
  about = await (await get("model.json")).json();
  postMessage({ about });
  const asked = new URLSearchParams(location.search).get("runtime");
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  // A GPU made of software is slower than the processor itself.
  if (asked === "webgpu" || (asked !== "wasm" && adapter && !adapter.info?.isFallbackAdapter)) {
    try {
      return await open("webgpu");
    } catch (error) {
      console.warn("WebGPU does not serve, WebAssembly does:", error);
    }
  }
  await open("wasm");
}

// ---- an image at the network's size
// What Pillow's Image.resize does with BILINEAR, to the bit: for each pixel of `to`, where it
// begins among those of `from`, and its weights as whole numbers.
function weights(from, to) {
  const scale = from / to, reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const parts = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((k + first - centre + 0.5) * (1 / reach))));
    const sum = parts.reduce((a, b) => a + b, 0);
    return { first, parts: Int32Array.from(parts, (part) => Math.trunc(0.5 + (part / sum) * 2 ** BITS)) };
  });
}

// Resample one axis of `count` lines: pixel i of line j lies at j * line + i * step.
function resample(source, target, table, count, channels, [line, step], [outLine, outStep]) {
  table.forEach(({ first, parts }, i) => {
    for (let j = 0; j < count; j++) {
      for (let c = 0; c < channels; c++) {
        let sum = 2 ** (BITS - 1), at = j * line + first * step + c;
        for (let k = 0; k < parts.length; k++, at += step) sum += source[at] * parts[k];
        target[j * outLine + i * outStep + c] = sum >> BITS;
      }
    }
  });
}

// Height and width at which the network sees an image: its own, where it fits.
function scaledSize(size) {
  const { size: box, resize } = about.input;
  const ratio = box ? Math.min(box[0] / size[0], box[1] / size[1]) : Math.sqrt(MOST_SEEN / (size[0] * size[1]));
  if (resize === "keep" && ratio >= 1) return size;
  return size.map((n) => Math.max(1, Math.trunc(n * ratio)));
}

// Those of the network's input, which may follow from what it sees: rounded up.
function inputSize(size) {
  const { size: box, stride } = about.input;
  return box ?? size.map((n) => Math.max(2, Math.ceil((n - 1) / stride)) * stride + 1);
}

// The image as the network gets it, in a box; its size in there; and whether parts are transparent.
function prepare(bitmap) {
  const { channels, fill } = about.input;
  const size = [bitmap.height, bitmap.width], [h, w] = size;
  const scaled = scaledSize(size), [sh, sw] = scaled, box = inputSize(scaled);
  const columns = weights(w, sw), narrow = new Uint8Array(h * sw * channels);
  const context = new OffscreenCanvas(w, Math.min(STRIP, h)).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  let transparent = false;
  for (let top = 0; top < h; top += STRIP) {
    const rows = Math.min(STRIP, h - top);
    context.drawImage(bitmap, 0, top, w, rows, 0, 0, w, rows);
    const { data } = context.getImageData(0, 0, w, rows);
    for (let i = 0; i < data.length; i += 4) {
      transparent ||= data[i + 3] < 255;
      if (channels === 1) data[i] = (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 32768) >> 16;
    }
    const strip = narrow.subarray(top * sw * channels);
    resample(data, strip, columns, rows, channels, [4 * w, 4], [sw * channels, channels]);
  }
  const pixels = new Uint8Array(box[0] * box[1] * channels).map((_, i) => fill[i % channels]);
  resample(narrow, pixels, weights(h, sh), sw, channels, [channels, sw * channels], [channels, box[1] * channels]);
  return { pixels, box, size, scaled, transparent };
}

// ---- its run
async function run(pixels, box) {
  const tensor = new ort.Tensor("uint8", pixels, [1, ...box, about.input.channels]);
  const { [session.outputNames[0]]: logits } = await session.run({ [session.inputNames[0]]: tensor });
  return logits;
}

// The class ids u8[h * w] of the upper left of a box, whose logits f32[1, rows, columns, classes]
// have their corners in its corners.
function largest({ data, dims: [, rows, columns, classes] }, box, [h, w]) {
  const labels = new Uint8Array(h * w), line = columns * classes, row = new Float32Array(line);
  for (let y = 0; y < h; y++) {
    const above = (y * (rows - 1)) / (box[0] - 1), i = Math.floor(above), t = above - i;
    const at = i * line, below = Math.min(i + 1, rows - 1) * line;
    for (let k = 0; k < line; k++) row[k] = data[at + k] * (1 - t) + data[below + k] * t;
    for (let x = 0; x < w; x++) {
      const before = (x * (columns - 1)) / (box[1] - 1), j = Math.floor(before), s = before - j;
      const left = j * classes, right = Math.min(j + 1, columns - 1) * classes;
      for (let c = 0, most = -Infinity; c < classes; c++) {
        const score = row[left + c] * (1 - s) + row[right + c] * s;
        if (score > most) (most = score), (labels[y * w + x] = c);
      }
    }
  }
  return labels;
}

async function segment(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => {
    throw new Refusal(`This browser cannot read ${file.name} as an image. JPEG, PNG and WebP always work.`);
  });
  const { width: w, height: h } = bitmap;
  if (w * h > MOST_PIXELS) throw new Refusal(`${file.name} is ${w} × ${h}; at most 64 megapixels are taken.`);
  if (Math.min(w, h) < 2) throw new Refusal(`${file.name} is ${w} × ${h}: too small.`);
  const { pixels, ...found } = prepare(bitmap);
  bitmap.close();
  await ready;
  postMessage({ running: file.name });
  const began = performance.now(), logits = await run(pixels, found.box);
  const seconds = (performance.now() - began) / 1000;
  const labels = largest(logits, found.box, found.scaled);
  return { ...found, labels, logits: logits.data, dims: logits.dims, seconds, runtime };
}

function explain(error) {
  if (error instanceof Refusal) return error.message;
  console.error(error);
  if (error instanceof RangeError || /memory|alloc/i.test(error?.message ?? error))
    return "There is not enough memory for this image: close other pages, or take a smaller one.";
  return `Something failed (${error?.message ?? error}).`;
}

const ready = start().then(() => postMessage({ ready: true }));
ready.catch((error) => postMessage({ fatal: explain(error) }));

onmessage = async ({ data: { file, id } }) => {
  try {
    const result = await segment(file);
    postMessage({ id, result }, [result.labels.buffer, result.logits.buffer]);
  } catch (error) {
    postMessage({ id, error: explain(error) }); // which the page no longer hears after `fatal`
  }
};
