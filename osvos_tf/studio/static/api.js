// The server's API. Every mistake becomes an Error whose message can be shown.

async function answer(response) {
  if (response.ok) return response;
  let words = `The studio answered ${response.status}.`;
  try {
    words = (await response.json()).error || words;
  } catch {
    // No words of its own: the status says what there is to say.
  }
  throw new Error(words);
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(`api/${path}`, options);
  } catch {
    throw new Error("The studio does not answer. Is it still running?");
  }
  return answer(response);
}

export const getJson = async (path) => (await call(path)).json();
export const getBlob = async (path) => {
  const response = await call(path);
  return { blob: await response.blob(), source: response.headers.get("X-Source") };
};
export const post = (path, value = {}) => call(path, { method: "POST", body: JSON.stringify(value) });
export const postBytes = (path, bytes) => call(path, { method: "POST", body: bytes });
export const put = (path, bytes) => call(path, { method: "PUT", body: bytes });

export function listen(onEvent, onLost) {
  const events = new EventSource("api/events");
  events.onmessage = (event) => onEvent(JSON.parse(event.data));
  events.onerror = onLost;
}
