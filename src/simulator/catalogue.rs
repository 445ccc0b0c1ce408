//! The fixtures that the simulator generates prices for: the original's four first, then as many
//! more as configured.

use crate::domain::ids::EventId;

/// Maximum number of fixtures: limits the effect of a mistyped setting.
pub(crate) const MAX_FIXTURES: usize = 100_000;

/// The clubs, in pairs as they play in the first round. The first four pairs are the original's
/// matches.
const CLUBS: [&str; 40] = [
    "Flamengo",
    "Palmeiras",
    "Grêmio",
    "Internacional",
    "Corinthians",
    "Santos",
    "São Paulo",
    "Vasco",
    "Atlético Mineiro",
    "Cruzeiro",
    "Botafogo",
    "Fluminense",
    "Bahia",
    "Vitória",
    "Fortaleza",
    "Ceará",
    "Athletico Paranaense",
    "Coritiba",
    "Sport",
    "Náutico",
    "Red Bull Bragantino",
    "Mirassol",
    "Juventude",
    "Caxias",
    "Goiás",
    "Vila Nova",
    "Avaí",
    "Figueirense",
    "Chapecoense",
    "Criciúma",
    "Ponte Preta",
    "Guarani",
    "Paysandu",
    "Remo",
    "CRB",
    "CSA",
    "América Mineiro",
    "Cuiabá",
    "Santa Cruz",
    "Novorizontino",
];

/// A scheduled match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fixture {
    /// The event id, starting at `MATCH_001`.
    pub event_id: EventId,
    /// The home side.
    pub home_team: &'static str,
    /// The away side.
    pub away_team: &'static str,
}

/// The first `count` fixtures, at most [`MAX_FIXTURES`]. Each club plays once per round and meets
/// each other club once per leg. The second leg swaps home and away. After that the season repeats
/// under new ids.
pub(crate) fn fixtures(count: usize) -> Vec<Fixture> {
    (0..count.min(MAX_FIXTURES)).filter_map(fixture).collect()
}

fn fixture(number: usize) -> Option<Fixture> {
    let matches_a_round = CLUBS.len() / 2;
    let rounds_a_leg = CLUBS.len() - 1;
    let round = number / matches_a_round;
    let place = number % matches_a_round;
    let leg = round / rounds_a_leg;
    let round = round % rounds_a_leg;
    let last = CLUBS.len() - 1;
    let one = club_at(place, round);
    let other = club_at(last - place, round);
    let (home_team, away_team) = if leg.is_multiple_of(2) {
        (one, other)
    } else {
        (other, one)
    };
    let event_id = EventId::new(&format!("MATCH_{:03}", number + 1)).ok()?;
    Some(Fixture {
        event_id,
        home_team,
        away_team,
    })
}

/// Round-robin schedule (circle method): the first club keeps its seat, the others move on by one
/// seat each round, and clubs in opposite seats play each other. In the first round these are
/// neighbours in the list.
fn club_at(place: usize, round: usize) -> &'static str {
    let others = CLUBS.len() - 1;
    let seat = if place == 0 {
        0
    } else {
        1 + (place - 1 + others - round % others) % others
    };
    let across = CLUBS.len() - 1 - seat;
    if seat < across {
        CLUBS[2 * seat]
    } else {
        CLUBS[2 * across + 1]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn original_fixtures_come_first() {
        let first: Vec<_> = fixtures(6)
            .into_iter()
            .map(|fixture| {
                format!(
                    "{} {} v {}",
                    fixture.event_id, fixture.home_team, fixture.away_team
                )
            })
            .collect();
        assert_eq!(
            first,
            [
                "MATCH_001 Flamengo v Palmeiras",
                "MATCH_002 Grêmio v Internacional",
                "MATCH_003 Corinthians v Santos",
                "MATCH_004 São Paulo v Vasco",
                "MATCH_005 Atlético Mineiro v Cruzeiro",
                "MATCH_006 Botafogo v Fluminense",
            ]
        );
    }

    #[test]
    fn ids_are_unique_and_teams_differ() {
        let all = fixtures(5_000);
        assert_eq!(all.len(), 5_000);
        assert_eq!(
            all.iter()
                .map(|fixture| &fixture.event_id)
                .collect::<HashSet<_>>()
                .len(),
            5_000
        );
        assert!(
            all.iter()
                .all(|fixture| fixture.home_team != fixture.away_team)
        );
        assert_eq!(all[999].event_id.as_str(), "MATCH_1000");
        assert_eq!(fixtures(usize::MAX).len(), MAX_FIXTURES);
    }

    /// Each club plays once per round, and each other club home and away in a season.
    #[test]
    fn season_is_a_double_round_robin() {
        let all = fixtures(40 * 39);
        for round in all.chunks(20) {
            let clubs: HashSet<_> = round
                .iter()
                .flat_map(|one| [one.home_team, one.away_team])
                .collect();
            assert_eq!(clubs.len(), 40);
        }
        let pairs: HashSet<_> = all
            .iter()
            .map(|one| (one.home_team, one.away_team))
            .collect();
        assert_eq!(pairs.len(), 40 * 39);
    }
}
