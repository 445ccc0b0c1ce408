//! Database functions that process several bets in one call.

use crate::store::StoreError;
use crate::store::failure::Failure;
use crate::store::rows::unreadable;

/// Whether a database function waits for wallets that are locked at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    ForWallets,
    ForNobody,
}

/// The outcome of a bet that must be placed or decided alone.
pub(super) const BUSY: &str = "BUSY";

/// One value of each item, for an array parameter.
pub(super) fn each<I: IntoIterator, T>(items: I, value: impl FnMut(I::Item) -> T) -> Vec<T> {
    items.into_iter().map(value).collect()
}

/// The answers in the order of their places, which count from 1.
pub(super) fn in_places<T>(
    size: usize,
    answers: impl Iterator<Item = Result<(i32, Option<T>), StoreError>>,
) -> Result<Vec<Option<T>>, Failure> {
    let mut placed: Vec<Option<T>> = std::iter::repeat_with(|| None).take(size).collect();
    for answer in answers {
        let (place, answer) = answer?;
        let index = usize::try_from(place)
            .ok()
            .and_then(|place| place.checked_sub(1));
        *index
            .and_then(|index| placed.get_mut(index))
            .ok_or_else(|| unreadable("place", place))? = answer;
    }
    Ok(placed)
}

/// The answer of a call with a single item. It is missing if the bet was created concurrently: it
/// did not exist yet when the wallets were locked.
pub(super) fn alone<T>(answers: Vec<Option<T>>) -> Result<T, Failure> {
    answers
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(Failure::conflict)
}
