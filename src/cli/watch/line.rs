//! Formats a market change as a line of text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use super::style::{Style, fold};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{OddsUpdate, Selection};
use crate::domain::timestamp::Timestamp;

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// One change, together with the last printed state of the market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The market's new state.
    pub update: OddsUpdate,
    /// The market's last printed state.
    pub before: Option<OddsUpdate>,
    /// Whether earlier changes may have been skipped.
    pub conflated: bool,
    /// Whether the source of the market is lost.
    pub stale: bool,
}

/// Formats a change without a newline: time (UTC), event, teams, market and each price, with an
/// arrow if it moved. A line longer than `width` continues below.
pub(crate) fn line(change: &Change, style: Style, width: Option<usize>) -> String {
    let update = &change.update;
    let mut teams = printable(&update.home_team).into_owned();
    if !update.away_team.is_empty() {
        let _ = write!(teams, " v {}", printable(&update.away_team));
    }
    let mut parts = vec![
        ("", time_of_day(update.revision.updated_at)),
        (" ", printable(update.event_id.as_str()).into_owned()),
        (" ", teams),
        ("  ", update.market.to_string()),
    ];
    for selection in &update.selections {
        let mut part = format!(
            "{} {}",
            printable(label(selection)),
            priced(selection, change, style.colour)
        );
        if selection.status != SelectionStatus::Active {
            let _ = write!(part, " ({})", selection.status);
        }
        parts.push(("  ", part));
    }
    if update.in_play {
        parts.push(("  ", "[in play]".to_owned()));
    }
    if update.status != MarketStatus::Open {
        parts.push(("  ", format!("[{}]", update.status)));
    }
    if change.conflated {
        parts.push(("  ", "[conflated]".to_owned()));
    }
    if change.stale {
        parts.push(("  ", "[stale]".to_owned()));
    }
    let shown = parts
        .into_iter()
        .map(|(separator, part)| (separator, style.text(&part).into_owned()));
    fold(&shown.collect::<Vec<_>>(), width)
}

/// Replaces control characters, which could control the terminal, in foreign text.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The selection's id, or its name if the id is only a number.
fn label(selection: &Selection) -> &str {
    let id = selection.id.as_str();
    let number = id.bytes().all(|byte| byte.is_ascii_digit());
    if number && !selection.name.is_empty() {
        &selection.name
    } else {
        id
    }
}

fn priced(selection: &Selection, change: &Change, colour: bool) -> String {
    let Some(price) = selection.price else {
        return "-".to_owned();
    };
    let before = change
        .before
        .as_ref()
        .and_then(|before| before.price_of(selection.id.as_str()));
    let (tint, arrow) = match before.map(|before| price.cmp(&before)) {
        Some(Ordering::Greater) => (GREEN, "▲"),
        Some(Ordering::Less) => (RED, "▼"),
        Some(Ordering::Equal) | None => return price.to_string(),
    };
    if colour {
        format!("{tint}{price}{arrow}{PLAIN}")
    } else {
        format!("{price}{arrow}")
    }
}

/// `21:07:45.123Z`.
fn time_of_day(time: Timestamp) -> String {
    let millis = time.micros().div_euclid(1_000).rem_euclid(86_400_000);
    let seconds = millis / 1_000;
    let millis = millis % 1_000;
    format!(
        "{:02}:{:02}:{:02}.{millis:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::SelectionId;
    use crate::domain::odds::price::Price;
    use crate::domain::odds::update::testing::*;

    const COLOUR: Style = Style {
        colour: true,
        ascii: false,
        folds: false,
    };

    fn first() -> Change {
        Change {
            update: update(1, 0, 1),
            before: None,
            conflated: false,
            stale: false,
        }
    }

    fn moved() -> Change {
        let mut change = first();
        let before = change.update.clone();
        change.update.selections[0].price = Price::from_thousandths(1_150);
        change.update.selections[2].price = Price::from_thousandths(4_200);
        change.before = Some(before);
        change
    }

    #[test]
    fn first_line_has_no_arrows() {
        insta::assert_snapshot!(line(&first(), COLOUR, None), @"21:07:45.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.101  draw 3.2  away 4.5");
    }

    #[test]
    fn arrows_show_price_direction() {
        insta::assert_snapshot!(line(&moved(), Style::default(), None), @"21:07:45.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.15▲  draw 3.2  away 4.2▼");
        let coloured = line(&moved(), COLOUR, None).replace('\u{1b}', "ESC");
        insta::assert_snapshot!(coloured, @"21:07:45.000Z MATCH_001 Flamengo v Palmeiras  1x2  home ESC[32m1.15▲ESC[0m  draw 3.2  away ESC[31m4.2▼ESC[0m");
    }

    #[test]
    fn unusual_states_are_shown() {
        let mut change = moved();
        change.conflated = true;
        change.stale = true;
        change.update.status = MarketStatus::Suspended;
        change.update.in_play = true;
        change.update.selections[1].price = None;
        change.update.selections[2].status = SelectionStatus::Removed;
        insta::assert_snapshot!(line(&change, Style::default(), None), @"21:07:45.000Z MATCH_001 Flamengo v Palmeiras  1x2  home 1.15▲  draw -  away 4.2▼ (removed)  [in play]  [suspended]  [conflated]  [stale]");
    }

    #[test]
    fn narrow_ascii_terminal_shows_everything() {
        let ascii = Style {
            ascii: true,
            ..Style::default()
        };
        insta::assert_snapshot!(line(&moved(), ascii, Some(60)), @r"
        21:07:45.000Z MATCH_001 Flamengo v Palmeiras  1x2
            home 1.15^  draw 3.2  away 4.2v
        ");
    }

    #[test]
    fn race_shows_title_and_runner_names() {
        let mut change = first();
        change.update = market_update("1.197931750", "win", Some("2.5"), 3_661, 1);
        change.update.home_team = "Ascot 14:30".to_owned();
        change.update.away_team = String::new();
        change.update.selections.truncate(1);
        change.update.selections[0].id = SelectionId::new("4821").unwrap();
        change.update.selections[0].name = "Bold Runner".to_owned();
        insta::assert_snapshot!(line(&change, Style::default(), None), @"22:08:46.000Z 1.197931750 Ascot 14:30  win@2.5  Bold Runner 17.201");
    }

    #[test]
    fn names_cannot_control_terminal() {
        let mut change = first();
        change.update.home_team = "\u{1b}[2Jx\n".to_owned();
        assert!(line(&change, Style::default(), None).contains(" \u{fffd}[2Jx\u{fffd} v "));
    }

    proptest! {
        #[test]
        fn any_update_prints_one_clean_line(update in any_update(), before in any_update()) {
            let change = Change { update, before: Some(before), conflated: true, stale: true };
            prop_assert!(!line(&change, Style::default(), None).contains(char::is_control));
        }
    }
}
