// Who uses the page: a token, or with AUTH=off only a user id. Kept for this tab only.

const STORED = 'identity';

/** Nobody. */
export const NOBODY = Object.freeze({ token: null, userId: null });

/** The user of a token, `sub`. Only the server checks a token; this is for display and requests. */
export function subject(token) {
  try {
    const payload = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
    const { sub } = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    return typeof sub === 'string' && sub !== '' ? sub : null;
  } catch {
    return null;
  }
}

/** The identity of what a user typed, or null if neither field names a user. */
export function identityOf(token, userId) {
  const trimmed = token.trim().replace(/^Bearer\s+/i, '');
  const user = subject(trimmed) ?? userId.trim();
  return user === '' ? null : { token: trimmed === '' ? null : trimmed, userId: user };
}

/** Whether an identity would take the place of another user, who has to agree. */
export function replacesUser(current, offered) {
  return current.userId !== null && current.userId !== offered.userId;
}

/** The token in the fragment of an address, such as `#token=…`; null if there is none. */
export function fragmentToken(hash) {
  return new URLSearchParams(hash.replace(/^#/, '')).get('token') || null;
}

/** Reads the stored identity. */
export function load(storage) {
  try {
    const stored = JSON.parse(storage.getItem(STORED));
    return typeof stored?.userId === 'string' ? { token: stored.token ?? null, userId: stored.userId } : NOBODY;
  } catch {
    return NOBODY;
  }
}

/** Stores the identity, or removes it if it is nobody's. */
export function store(storage, identity) {
  if (identity.userId === null) storage.removeItem(STORED);
  else storage.setItem(STORED, JSON.stringify(identity));
}
