// The server's API: what is asked, and its problems as exceptions.

let token = null;

/** What the server answers instead of a result: its status, code, what is wrong and the way out. */
export class Problem extends Error {
  constructor(document) {
    super(document.way_out ? `${document.detail}; ${document.way_out}` : document.detail);
    Object.assign(this, document);
  }
}

/** Send this bearer token from now on. */
export function useToken(value) {
  token = value;
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

let refused = null; // asks a person for a token, see `whenRefused`
let asking = null; // the answer to that, which all requests wait for

/** Have `ask(problem)` called when the server wants another token; its promise ends once one was given. */
export const whenRefused = (ask) => (refused = ask);

/** A response; waits and asks again while the server is busy, and with another token once it wants one. Throws `Problem`. */
export async function ask(path, options = {}) {
  for (;;) {
    const used = token;
    const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Problem({ status: 0, code: "unreachable", detail: "the server does not answer", way_out: "start it again" });
    }
    if (response.ok) return response;
    const after = response.headers.get("Retry-After"); // also of one that ends, whose place another takes
    if (response.status === 429 || (response.status === 503 && after)) {
      await pause(Number(after) || 2);
      continue;
    }
    let problem = { status: response.status, code: "unknown", detail: `the server answers ${response.status}` };
    try {
      problem = await response.json();
    } catch {
      // what is between the page and the server answers without a document
    }
    if (response.status !== 401 || !refused) throw new Problem(problem);
    if (used === token) asking ??= refused(new Problem(problem)).finally(() => (asking = null));
    await asking;
  }
}

const TYPES = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/tiff", [0x49, 0x49]],
  ["image/tiff", [0x4d, 0x4d]],
];

/** The media type of a film's file by its first bytes. */
async function typeOf(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const found = TYPES.find(([, bytes]) => bytes.every((byte, k) => head[k] === byte));
  return found ? found[0] : "application/dicom";
}

export const about = async () => (await ask("/v1/about")).json();

export const example = async () => (await ask("/v1/example.jpg")).blob();

/** Read a film: {id, findings, words}. */
export async function readFilm(file) {
  const headers = { "Content-Type": await typeOf(file), Accept: "application/json" };
  return (await ask("/v1/films", { method: "POST", headers, body: file })).json();
}

/** Something of a film that the server keeps: pixels.png, drawing.png; report.dcm, capture.dcm, film.dcm, perhaps by `headers` of a patient. */
export const part = async (id, name, headers = {}) => (await ask(`/v1/films/${id}/${name}`, { headers })).blob();

export const forget = (id) => ask(`/v1/films/${id}`, { method: "DELETE" }).catch(() => null);

export const corrections = async (id) => (await ask(`/v1/films/${id}/corrections`)).json();

export async function saveCorrections(id, value) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(`/v1/films/${id}/corrections`, { method: "PUT", headers, body: JSON.stringify(value) })).json();
}
