// access.js - the API key, where the service wants one. It is kept for this tab and no longer, and
// never becomes part of what is copied.

const NAME = "taca-key";

export const hasKey = () => Boolean(sessionStorage.getItem(NAME));
export const setKey = (key) => sessionStorage.setItem(NAME, key);

export function withKey(headers = {}) {
  const key = sessionStorage.getItem(NAME);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}
