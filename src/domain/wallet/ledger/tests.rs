use proptest::prelude::*;

use super::*;

fn amount(cents: i64) -> Amount {
    Amount::new(cents).unwrap()
}

#[test]
fn transfers_never_go_below_zero() {
    let start = Balance {
        available: 100,
        reserved: 20,
    };
    let after = |kind, cents| start.after(kind, amount(cents));
    let balance = |available, reserved| {
        Ok(Balance {
            available,
            reserved,
        })
    };
    assert_eq!(after(TransferKind::Deposit, 5), balance(105, 20));
    assert_eq!(after(TransferKind::Withdraw, 100), balance(0, 20));
    assert_eq!(after(TransferKind::Reserve, 100), balance(0, 120));
    assert_eq!(after(TransferKind::Commit, 20), balance(100, 0));
    assert_eq!(after(TransferKind::Refund, 20), balance(120, 0));
    assert_eq!(after(TransferKind::Expire, 1), balance(101, 19));
    for (kind, cents) in [
        (TransferKind::Withdraw, 101),
        (TransferKind::Reserve, 101),
        (TransferKind::Commit, 21),
        (TransferKind::Refund, 21),
    ] {
        assert_eq!(
            after(kind, cents),
            Err(TransferRefusal::InsufficientFunds),
            "{kind}"
        );
    }
}

#[test]
fn user_total_fits_64_bits() {
    let rich = Balance {
        available: i64::MAX - 10,
        reserved: 5,
    };
    assert!(rich.after(TransferKind::Deposit, amount(5)).is_ok());
    assert_eq!(
        rich.after(TransferKind::Deposit, amount(6)),
        Err(TransferRefusal::BalanceTooHigh)
    );
    assert_eq!(
        rich.after(TransferKind::Deposit, amount(i64::MAX)),
        Err(TransferRefusal::BalanceTooHigh)
    );
    assert!(
        rich.after(TransferKind::Reserve, amount(i64::MAX - 10))
            .is_ok()
    );
}

/// A reservation held for a bet is resolved only by that bet.
#[test]
fn reservation_is_resolved_once() {
    use ReservationStatus::{Committed, Expired, Pending, Refunded};
    for settlement in [
        HoldResolution::Commit,
        HoldResolution::Refund,
        HoldResolution::Expire,
    ] {
        assert_eq!(
            settlement.of::<u8>(Pending, None, None),
            Ok(ResolveHold::Now)
        );
        assert_eq!(
            settlement.of(Pending, Some(1), Some(1)),
            Ok(ResolveHold::Now)
        );
        for (held_for, asked_by) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
            assert_eq!(
                settlement.of(Pending, held_for, asked_by),
                Err(SettlementRefusal::HeldByBet)
            );
        }
        for ended in [Committed, Refunded, Expired] {
            let expected = if settlement.status() == ended {
                Ok(ResolveHold::Before)
            } else {
                Err(SettlementRefusal::AlreadySettled(ended))
            };
            assert_eq!(settlement.of(ended, Some(1), None), expected);
        }
    }
}

proptest! {
    #[test]
    fn internal_transfer_keeps_total(available in 0..i64::MAX / 2, reserved in 0..i64::MAX / 2, cents in 1..i64::MAX) {
        let start = Balance { available, reserved };
        for kind in [TransferKind::Reserve, TransferKind::Refund, TransferKind::Expire] {
            if let Ok(after) = start.after(kind, amount(cents)) {
                prop_assert_eq!(after.available + after.reserved, available + reserved);
                prop_assert!(after.available >= 0 && after.reserved >= 0);
            }
        }
    }
}
