//! The syntax of log filters.

use log::LevelFilter;

/// Checks a log filter; the error names the expected form. env_logger itself would only print a
/// warning and apply the rest.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    let want = || "log levels like info or warn,sports_bet_platform::bus=debug".to_owned();
    let (levels, words) = filter.split_once('/').unwrap_or((filter, ""));
    let good = levels.split(',').all(|part| is_directive(part.trim()));
    if good && !words.contains('/') {
        Ok(())
    } else {
        Err(want())
    }
}

/// Whether the text is `level`, `target` or `target=level`. An empty part is allowed and skipped,
/// as in env_logger.
fn is_directive(part: &str) -> bool {
    let is_target = |target: &str| {
        target
            .chars()
            .all(|letter| letter.is_alphanumeric() || "_:-".contains(letter))
    };
    match part.split_once('=') {
        Some((target, level)) => {
            let level = level.trim();
            is_target(target.trim()) && (level.is_empty() || level.parse::<LevelFilter>().is_ok())
        }
        None => part.parse::<LevelFilter>().is_ok() || is_target(part),
    }
}
