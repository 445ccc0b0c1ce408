"""Calls the gRPC APIs with Python's grpcio: the second way of scripts/check-grpc."""

import pathlib
import sys
import time

import grpc
from grpc_tools import protoc
import grpc_tools

proto, generated, odds_address, wallet_address, bets_address = sys.argv[1:]
pathlib.Path(generated).mkdir(parents=True)
files = sorted(str(file) for file in pathlib.Path(proto).rglob("*.proto"))
include = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
arguments = ["protoc", f"-I{proto}", f"-I{include}", f"--python_out={generated}", f"--grpc_python_out={generated}"]
assert protoc.main(arguments + files) == 0, "the .proto files do not compile"
sys.path.insert(0, generated)

from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from sports_bet.v1 import bets_pb2, bets_pb2_grpc, odds_pb2, odds_pb2_grpc  # noqa: E402
from sports_bet.v1 import types_pb2, wallet_pb2, wallet_pb2_grpc  # noqa: E402

DEADLINE = 60
calls = 0


def refusal(error):
    """The code and the reason of an error."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return f"{error.code().name} {info.reason}"


def call(method, request, wanted, metadata=()):
    """Calls until the answer is wanted, and prints both."""
    global calls
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            answer = method(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            answer = refusal(error)
        if wanted(answer):
            break
        assert time.monotonic() < deadline, f"{request}: {answer}"
        time.sleep(0.2)
    calls += 1
    print(f"> {type(request).__name__} {' '.join(str(request).split())}\n{str(answer)[:600]}")
    return answer


odds = odds_pb2_grpc.OddsServiceStub(grpc.insecure_channel(odds_address))
wallet = wallet_pb2_grpc.WalletServiceStub(grpc.insecure_channel(wallet_address))
bets = bets_pb2_grpc.BetsServiceStub(grpc.insecure_channel(bets_address))
health = health_pb2_grpc.HealthStub(grpc.insecure_channel(odds_address))

serving = health_pb2.HealthCheckResponse.SERVING
call(health.Check, health_pb2.HealthCheckRequest(), lambda it: it.status == serving)
event = odds_pb2.GetOddsRequest(event_id="MATCH_001")
shown = call(odds.GetOdds, event, lambda it: not isinstance(it, str) and it.markets)
none = odds_pb2.GetOddsRequest(event_id="NONE")
call(odds.GetOdds, none, lambda it: it == "NOT_FOUND EVENT_NOT_FOUND")
watch = odds_pb2.WatchOddsRequest(events=[odds_pb2.WatchedEvent(event_id="MATCH_001")], heartbeat_ms=500)
stream = odds.WatchOdds(watch, timeout=DEADLINE)
kinds, seq = set(), 0
for message in stream:
    kind = message.WhichOneof("message")
    kinds.add(kind)
    if kind in ("snapshot", "update"):
        number = getattr(message, kind).seq
        assert kind == "snapshot" or number > seq, f"{number} after {seq}"
        seq = number
    if {"snapshot", "update"} <= kinds:
        break
stream.cancel()
calls += 1
print(f"> WatchOdds: {sorted(kinds)}, seq {seq}")
key = (("idempotency-key", "first"),)
deposit = wallet_pb2.DepositRequest(user_id="u1", amount_cents=10000)
for _ in range(2):
    call(wallet.Deposit, deposit, lambda it: it.balance_cents == 10000, key)
other = wallet_pb2.DepositRequest(user_id="u1", amount_cents=1)
call(wallet.Deposit, other, lambda it: it == "ABORTED IDEMPOTENCY_KEY_REUSED", key)
market = next(it.odds for it in shown.markets if it.odds.market.name == "1x2")
bet = bets_pb2.PlaceBetRequest(
    user_id="u1",
    event_id="MATCH_001",
    market=types_pb2.MarketKey(name="1x2"),
    selection_id="home",
    stake_cents=500,
    price=market.selections[0].price,
    odds_change=bets_pb2.ODDS_CHANGE_ANY,
)
placed = call(bets.PlaceBet, bet, lambda it: not isinstance(it, str))
decided = (bets_pb2.BET_STATUS_CONFIRMED, bets_pb2.BET_STATUS_REJECTED)
call(bets.GetBet, bets_pb2.GetBetRequest(bet_id=placed.bet_id), lambda it: it.status in decided)
bet.price.price_thousandths = 999999
bet.odds_change = bets_pb2.ODDS_CHANGE_NONE
call(bets.PlaceBet, bet, lambda it: it == "FAILED_PRECONDITION ODDS_CHANGED")
print(f"{calls} calls, each with the expected answer")
