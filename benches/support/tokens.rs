//! Tokens of users, signed as `sports-bet token` signs them.

use std::time::Duration;

use secrecy::SecretString;
use sports_bet_platform::access::signing::{SigningKey, TokenClaims};
use sports_bet_platform::domain::access::Scope;
use sports_bet_platform::domain::ids::UserId;
use sports_bet_platform::domain::timestamp::Timestamp;

use super::Outcome;

/// The settings of a server that accepts tokens signed with [`shared_key`].
pub const SETTINGS: [(&str, &str); 2] = [("AUTH", "required"), ("AUTH_JWT_SECRET", SECRET)];
/// The shared secret.
pub const SECRET: &str = "only for benches: a secret of 32 bytes or more";
/// Longer than every bench.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// The key of [`SETTINGS`], for HS256.
pub fn shared_key() -> Outcome<SigningKey> {
    Ok(SigningKey::of_secret(&SecretString::from(SECRET))?)
}

/// A token of a user with these rights.
pub fn sign(key: &SigningKey, user: &str, scopes: &[Scope]) -> Outcome<String> {
    let now = Timestamp::now();
    Ok(key.sign(&TokenClaims {
        user: UserId::new(user)?,
        scopes: scopes.iter().copied().collect(),
        issued_at: now,
        expires_at: now.later_by(LIFETIME),
        issuer: None,
        audience: None,
    })?)
}
