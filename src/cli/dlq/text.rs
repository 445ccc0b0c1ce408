//! Text output of dead letters.

use std::fmt::Write;

use super::entry::DeadLetterEntry;

/// Number of payload bytes in a line of the list.
pub(super) const SHOWN_BYTES: usize = 60;

/// A line of the list: id, time, reason, origin, first bytes.
pub(super) fn line(letter: &DeadLetterEntry) -> String {
    let first = &letter.raw[..letter.raw.len().min(SHOWN_BYTES)];
    let DeadLetterEntry {
        id,
        received_at,
        reason,
        origin,
        ..
    } = letter;
    format!(
        "{id}\t{received_at}\t{}\t{}\t{}",
        escaped(reason),
        escaped(origin),
        first.escape_ascii()
    )
}

/// One line per header, then the bytes: as text if they are printable UTF-8, otherwise as a hex
/// dump.
pub(super) fn page(letter: &DeadLetterEntry) -> String {
    let mut page = format!("id: {}\n", letter.id);
    for (name, value) in &letter.headers {
        let _ = writeln!(page, "{}: {}", escaped(name), escaped(value));
    }
    let _ = writeln!(page, "bytes: {}\n", letter.raw.len());
    match std::str::from_utf8(&letter.raw) {
        Ok(text)
            if text
                .chars()
                .all(|letter| !letter.is_control() || matches!(letter, '\n' | '\t')) =>
        {
            page.push_str(text);
            page.push('\n');
        }
        _ => {
            for (index, row) in letter.raw.chunks(16).enumerate() {
                let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(
                    page,
                    "{:08x}  {:<47}  {}",
                    index * 16,
                    hex.join(" "),
                    readable(row)
                );
            }
        }
    }
    page
}

fn readable(row: &[u8]) -> String {
    row.iter()
        .map(|byte| {
            if byte.is_ascii_graphic() || *byte == b' ' {
                char::from(*byte)
            } else {
                '.'
            }
        })
        .collect()
}

/// Escapes control characters, so that foreign text can neither break a line nor control the
/// terminal.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            safe.extend(letter.escape_default())
        } else {
            safe.push(letter)
        }
    }
    safe
}
