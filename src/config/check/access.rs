//! Checks of the settings of authentication.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use crate::config::input::{ConfigError, ConfigInput};
use crate::config::settings::{MIN_TOKEN_SECRET, Role, Settings};

/// Settings of authentication that have no effect without it.
const ONLY_REQUIRED: [&str; 5] = [
    "AUTH_JWT_SECRET",
    "AUTH_JWT_KEYS",
    "AUTH_JWKS_URL",
    "AUTH_JWT_ISSUER",
    "AUTH_JWT_AUDIENCE",
];

/// What is wrong with the settings of authentication.
pub(super) fn access(
    roles: &BTreeSet<Role>,
    settings: &Settings,
    input: &ConfigInput,
) -> Vec<ConfigError> {
    let mut wrong = Vec::new();
    let is_reported = |variable: &str| input.wrong.iter().any(|error| error.variable == variable);
    let address = settings.process.bind_address;
    // A gateway makes services reachable whose own addresses may be loopback.
    let mut open = Role::WITH_CALLERS.iter().chain([&Role::Gateway]);
    let has_callers = open.any(|role| roles.contains(role));
    let must_choose = !address.to_canonical().is_loopback() && has_callers;
    if must_choose && settings.access.auth.is_none() && !is_reported("AUTH") {
        let want = format!(
            "required (callers need a token or an API key) or off (everybody may do everything), because \
             BIND_ADDRESS {address} is reachable from other machines"
        );
        wrong.push(input.error("AUTH", want));
    }
    let secret = settings.access.auth_jwt_secret.as_ref();
    if secret.is_some_and(|secret| secret.expose_secret().len() < MIN_TOKEN_SECRET) {
        let want = format!("a secret of at least {MIN_TOKEN_SECRET} bytes");
        wrong.push(input.error("AUTH_JWT_SECRET", want));
    }
    wrong
}

/// The settings that have no effect, and why.
pub(in crate::config) fn idle(
    settings: &Settings,
) -> Option<(&'static [&'static str], &'static str)> {
    let is_off = !settings.access.is_required();
    is_off.then_some((&ONLY_REQUIRED, "AUTH is not required"))
}
