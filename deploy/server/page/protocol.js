/** Ask the server, over the KServe v2 protocol with binary tensors. */

import { megabytes, sentence, settings } from "./dom.js";

const MODEL = `/v2/models/${settings.model}`;
const LENGTH = "Inference-Header-Content-Length";
// Of the JSON before the image.
const HEAD_BYTES = 1024;
// What the server says while a worker is dead or its successor is loaded, whatever the status.
const REPLACED = ["is not healthy", "unknown model", "is not ready"];
const [REFUSED, PASSING] = [[400, 408, 413, 415], [429, 503, 504]];

// Here and nowhere else: it is gone when the page is.
let token = "";

/** Send a token with every later request. */
export function useToken(text) {
  token = text;
}

/**
 * Say why there is no answer.
 *
 * kind: "token" (the server asks for one), "wait" (it starts, is repaired or has too much to do), "lost" (nobody
 * answers), or "refused" (trying again does not help). seconds: how long the server wants to be left alone.
 */
export class Problem extends Error {
  constructor(kind, message, seconds = 1) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** Send a request and return its response. Throws a Problem unless the server agrees. */
async function ask(path, { headers = {}, ...options } = {}) {
  let response;
  const access = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...access }, cache: "no-store" });
  } catch {
    throw new Problem("lost", "The server does not answer.");
  }
  if (response.ok) return response;
  throw problemOf(response.status, await reasonOf(response), Number(response.headers.get("Retry-After")) || 1);
}

async function reasonOf(response) {
  try {
    return String((await response.json()).error);
  } catch {
    return `the server answered ${response.status}`;
  }
}

function problemOf(status, reason, seconds) {
  if (status === 401) return new Problem("token", "This server asks for a token.");
  const waiting = PASSING.includes(status) || REPLACED.some((sign) => reason.includes(sign));
  if (waiting) return new Problem("wait", sentence(reason), seconds);
  const whose = REFUSED.includes(status) ? "" : "The server failed: ";
  return new Problem("refused", whose ? whose + sentence(reason) : sentence(reason));
}

/** Say whether the server would answer. Health is free of the token. */
export async function isReady() {
  try {
    return (await fetch("/v2/health/ready", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** Read what is served: the contract (classes, labels, size), and the network with its hash. */
export async function describe() {
  const config = await (await ask(`${MODEL}/config`)).json();
  const texts = Object.fromEntries(Object.entries(config.parameters).map(([name, one]) => [name, one.string_value]));
  const versions = config.version_policy?.specific?.versions ?? [1];
  const { contract, ...rest } = texts;
  return { ...rest, version: String(versions.at(-1)), input: config.input[0].name, ...JSON.parse(contract) };
}

/**
 * Send a file and return what the network says of it.
 *
 * Returns the probabilities that the mask is decided from (Float32Array, channels first), one probability for each
 * label, the network's version, the request's id, and milliseconds: `server` for decoding and the network, `roundTrip` for all of it.
 */
export async function infer(file, served) {
  const limit = Number(served.max_request_bytes) || Infinity;
  if (file.size + HEAD_BYTES > limit) {
    const size = `The file has ${megabytes(file.size)}`;
    throw new Problem("refused", `${size}, and this server takes at most ${megabytes(limit)}.`);
  }
  const tensor = { name: served.input, shape: [1, file.size], datatype: "UINT8" };
  const head = new TextEncoder().encode(
    JSON.stringify({
      inputs: [{ ...tensor, parameters: { binary_data_size: file.size } }],
      outputs: [settings.probabilities, settings.labels].map((name) => ({ name, parameters: { binary_data: true } })),
    }),
  );
  const begin = performance.now();
  const headers = { [LENGTH]: head.length, "Content-Type": "application/octet-stream" };
  // The file itself: its bytes, as an array, would be copied from one of the browser's processes to the next.
  const body = new Blob([head, file]);
  const response = await ask(`${MODEL}/infer`, { method: "POST", headers, body });
  const content = await contentOf(response);
  const roundTrip = performance.now() - begin;
  const { tensors, version, sha256 } = parse(content, Number(response.headers.get(LENGTH)));
  return {
    version,
    sha256,
    probabilities: tensors[settings.probabilities],
    labels: [...tensors[settings.labels]],
    id: response.headers.get("X-Request-Id") ?? "",
    roundTrip,
    server: Number(/dur=([\d.]+)/.exec(response.headers.get("Server-Timing"))?.[1] ?? NaN),
  };
}

async function contentOf(response) {
  try {
    return await response.arrayBuffer();
  } catch {
    throw new Problem("lost", "The connection broke during the answer.");
  }
}

/** Take an answer apart: JSON, then the bytes of its tensors in its order. */
function parse(content, length) {
  const document = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 0, length)));
  let place = length;
  const tensors = document.outputs.map(({ name, parameters }) => {
    // A copy, because a tensor may begin at any byte, and a view of floats may not.
    const tensor = new Float32Array(content.slice(place, place + parameters.binary_data_size));
    place += parameters.binary_data_size;
    return [name, tensor];
  });
  const { model_version: version, parameters } = document;
  return { version, sha256: parameters?.sha256, tensors: Object.fromEntries(tensors) };
}
