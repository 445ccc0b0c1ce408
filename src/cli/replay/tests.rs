//! The server over real sockets, read by the decoder and by a minimal client.

use futures_util::StreamExt;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::endpoint::Endpoint;
use crate::domain::odds::update::OddsUpdate;
use crate::supplier::Decoder;
use crate::supplier::betfair_fold::{History, fold_all, history_of};
use crate::supplier::testing::settings;
use crate::supplier::transport::{Connection, Inbound, Outbound, connect};

const DEADLINE: Duration = Duration::from_secs(30);
const GREYHOUNDS: &str = include_str!("../../../tests/data/betfair/1.197931750.jsonl");
const HORSES: &str = include_str!("../../../tests/data/betfair/BASIC-1.132153978.jsonl");

fn recordings() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/betfair");
    ["1.197931750.jsonl", "BASIC-1.132153978.jsonl"]
        .map(|name| folder.join(name))
        .to_vec()
}

async fn both_at_once() -> ReplayHandle {
    start(ReplayConfig::at_once(recordings())).await.unwrap()
}

/// A minimal protocol client.
struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Client {
    async fn connect(addr: SocketAddr) -> Client {
        let (reader, writer) = TcpStream::connect(addr).await.unwrap().into_split();
        let mut client = Client {
            lines: BufReader::new(reader).lines(),
            writer,
        };
        assert_eq!(client.next().await["op"], "connection");
        client
    }

    async fn subscribed(addr: SocketAddr, fields: Value) -> Client {
        let mut client = Client::connect(addr).await;
        assert_eq!(
            client
                .request_response(json!({"op":"authentication","id":1}))
                .await["statusCode"],
            "SUCCESS"
        );
        let mut request = json!({"op":"marketSubscription","id":7,"heartbeatMs":500});
        request
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let status = client.request_response(request).await;
        assert_eq!(
            (&status["statusCode"], &status["id"]),
            (&json!("SUCCESS"), &json!(7))
        );
        client
    }

    async fn request_response(&mut self, request: Value) -> Value {
        self.writer
            .write_all(format!("{request}\r\n").as_bytes())
            .await
            .unwrap();
        self.next().await
    }

    /// The next message; null at the end of the stream.
    async fn next(&mut self) -> Value {
        let line = timeout(DEADLINE, self.lines.next_line())
            .await
            .unwrap()
            .unwrap();
        line.map_or(Value::Null, |line| serde_json::from_str(&line).unwrap())
    }

    /// Every message up to the first heartbeat.
    async fn until_heartbeat(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            if message["ct"] == "HEARTBEAT" {
                return messages;
            }
            messages.push(message);
        }
    }
}

/// Reads from the server through transport and decoder, and calls `each` with the updates of every
/// frame until it returns true.
async fn read_through(
    addr: SocketAddr,
    decoder: &mut dyn Decoder,
    mut each: impl FnMut(Vec<OddsUpdate>) -> bool,
) {
    let endpoint: Endpoint = format!("betfair://{addr}").parse().unwrap();
    let Connection {
        mut inbound,
        outbound,
    } = connect(&endpoint, &settings(&[])).await.unwrap();
    for text in decoder.on_connected() {
        outbound.send(Outbound::Text(text)).await.unwrap();
    }
    loop {
        match timeout(DEADLINE, inbound.next()).await.unwrap() {
            Some(Ok(Inbound::Frame(frame))) => {
                let decoded = decoder.on_frame(&frame).unwrap();
                assert_eq!(decoded.refused, []);
                for text in decoded.send {
                    outbound.send(Outbound::Text(text)).await.unwrap();
                }
                if each(decoded.updates) {
                    return;
                }
            }
            Some(Ok(Inbound::Alive)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn history(updates: &[OddsUpdate]) -> History {
    let json: Vec<_> = updates.iter().map(OddsUpdate::to_json).collect();
    history_of(json.iter().map(String::as_str))
}

fn settled(updates: &[OddsUpdate]) -> usize {
    updates
        .iter()
        .filter(|update| update.status.as_str() == "settled")
        .count()
}

#[tokio::test]
async fn decoded_replay_matches_independent_fold() {
    let server = both_at_once().await;
    let mut decoder = Endpoint::Betfair {
        host: String::new(),
        port: 0,
        tls: false,
    }
    .decoder(&settings(&[]));
    let mut updates = Vec::new();
    read_through(server.addr, &mut *decoder, |more| {
        updates.extend(more);
        settled(&updates) == 2
    })
    .await;
    assert_eq!(history(&updates), fold_all(&[GREYHOUNDS, HORSES]));
    server.stop().await;
}

/// A decoder that repeatedly loses its connection misses no update and sees none twice.
#[tokio::test]
async fn resumed_decoder_sees_each_update_once() {
    let server = both_at_once().await;
    let mut decoder = Endpoint::Betfair {
        host: String::new(),
        port: 0,
        tls: false,
    }
    .decoder(&settings(&[]));
    let mut updates = Vec::new();
    let mut connections = 0;
    while settled(&updates) < 2 {
        let mut left = 90;
        connections += 1;
        read_through(server.addr, &mut *decoder, |more| {
            updates.extend(more);
            left -= 1;
            left == 0 || settled(&updates) == 2
        })
        .await;
    }
    assert!(connections > 5, "{connections}");
    assert_eq!(history(&updates), fold_all(&[GREYHOUNDS, HORSES]));
}

#[tokio::test]
async fn stream_starts_with_image_per_market() {
    let server = both_at_once().await;
    let segmented = json!({"segmentationEnabled":true});
    let messages = Client::subscribed(server.addr, segmented)
        .await
        .until_heartbeat()
        .await;
    assert_eq!(messages.len(), 166 + 480);
    let heads: Vec<_> = messages[..3]
        .iter()
        .map(|m| {
            json!([
                m["ct"],
                m["segmentType"],
                m["id"],
                m["pt"],
                m["mc"][0]["id"],
                m["mc"][0]["img"],
                m["clk"]
            ])
        })
        .collect();
    assert_eq!(
        heads,
        [
            json!([
                "SUB_IMAGE",
                "SEG_START",
                7,
                1_650_392_673_420_i64,
                "1.197931750",
                true,
                null
            ]),
            json!([
                "SUB_IMAGE",
                "SEG_END",
                7,
                1_497_351_220_318_i64,
                "1.132153978",
                true,
                "0.2"
            ]),
            json!([null, null, 7, messages[2]["pt"], "1.197931750", null, "0.3"]),
        ]
    );
    assert!(
        messages[1]["initialClk"]
            .as_str()
            .unwrap()
            .starts_with("replay-")
    );
    // Only a client that enables segments gets them.
    let whole = Client::subscribed(server.addr, json!({}))
        .await
        .until_heartbeat()
        .await;
    assert_eq!(whole.len(), 1 + messages.len() - 2);
    assert_eq!(
        (&whole[0]["ct"], &whole[0]["segmentType"], &whole[0]["clk"]),
        (&json!("SUB_IMAGE"), &Value::Null, &json!("0.2"))
    );
    assert_eq!(
        whole[0]["mc"],
        json!([messages[0]["mc"][0], messages[1]["mc"][0]])
    );
    assert_eq!(whole[1..], messages[2..]);
}

/// A market of 24 runners, and its prices.
fn large_market(market: u32) -> String {
    let runners: Vec<_> = (1..=24).map(|id| format!(r#"{{"status":"ACTIVE","sortPriority":{id},"id":{id},"name":"Runner {id} of a market with long names"}}"#)).collect();
    let prices: Vec<_> = (1..=24)
        .map(|id| format!(r#"{{"id":{id},"ltp":{id}.5,"batb":[[0,{id}.4,100.0]]}}"#))
        .collect();
    format!(
        r#"{{"id":"1.{market}","img":true,"marketDefinition":{{"status":"OPEN","marketType":"WIN","version":1,"runners":[{}]}},"rc":[{}]}}"#,
        runners.join(","),
        prices.join(",")
    )
}

#[tokio::test]
async fn large_messages_are_segmented() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |pt: u32| {
        let markets: Vec<_> = (1_000..1_400).map(large_market).collect();
        format!(r#"{{"op":"mcm","pt":{pt},"mc":[{}]}}"#, markets.join(","))
    };
    let lines = [line(1_000), line(1_001)];
    assert!(lines[0].len() > 1024 * 1024);
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let server = start(ReplayConfig::at_once(vec![file.path().to_owned()]))
        .await
        .unwrap();
    let whole = Client::subscribed(server.addr, json!({}))
        .await
        .until_heartbeat()
        .await;
    assert_eq!(whole.len(), 2);
    let segments = Client::subscribed(server.addr, json!({"segmentationEnabled":true}))
        .await
        .until_heartbeat()
        .await;
    let ends: Vec<_> = (0..segments.len())
        .filter(|index| segments[*index]["segmentType"] == "SEG_END")
        .collect();
    assert_eq!((ends.len(), ends[1]), (2, segments.len() - 1));
    for (message, segments) in whole
        .iter()
        .zip([&segments[..=ends[0]], &segments[ends[0] + 1..]])
    {
        assert!(
            segments.len() > 10
                && segments
                    .iter()
                    .all(|segment| segment.to_string().len() < 70 * 1024)
        );
        assert_eq!(segments[0]["segmentType"], "SEG_START");
        assert!(
            segments
                .iter()
                .all(|segment| segment["ct"] == message["ct"] && segment["pt"] == message["pt"])
        );
        assert!(
            segments[..segments.len() - 1]
                .iter()
                .all(|segment| segment["clk"] == Value::Null)
        );
        assert_eq!(segments.last().unwrap()["clk"], message["clk"]);
        let changes: Vec<_> = segments
            .iter()
            .flat_map(|segment| segment["mc"].as_array().unwrap().clone())
            .collect();
        assert_eq!(json!(changes), message["mc"]);
    }
}

#[tokio::test]
async fn filter_selects_markets() {
    let server = both_at_once().await;
    let mut client = Client::subscribed(
        server.addr,
        json!({"marketFilter":{"marketIds":["1.132153978"]}}),
    )
    .await;
    let messages = client.until_heartbeat().await;
    assert_eq!(messages.len(), 480);
    assert_eq!(
        (&messages[0]["ct"], &messages[0]["segmentType"]),
        (&json!("SUB_IMAGE"), &Value::Null)
    );
    let mut client =
        Client::subscribed(server.addr, json!({"marketFilter":{"marketIds":["1.0"]}})).await;
    let messages = client.until_heartbeat().await;
    assert_eq!(
        (messages.len(), &messages[0]["ct"], &messages[0]["mc"]),
        (1, &json!("SUB_IMAGE"), &Value::Null)
    );
}

#[tokio::test]
async fn playback_resumes_after_known_clock() {
    let server = both_at_once().await;
    let segmented = json!({"segmentationEnabled":true});
    let all = Client::subscribed(server.addr, segmented)
        .await
        .until_heartbeat()
        .await;
    let clocks = |at: usize| json!({"initialClk": all[1]["initialClk"], "clk": all[at]["clk"]});
    let rest = Client::subscribed(server.addr, clocks(99))
        .await
        .until_heartbeat()
        .await;
    assert_eq!(rest[0]["ct"], "RESUB_DELTA");
    assert_eq!(rest[0]["mc"], all[100]["mc"]);
    assert_eq!(rest[1..], all[101..]);
    let nothing = Client::subscribed(server.addr, clocks(all.len() - 1))
        .await
        .until_heartbeat()
        .await;
    assert_eq!(
        (nothing.len(), &nothing[0]["ct"]),
        (1, &json!("RESUB_DELTA"))
    );
}

#[tokio::test]
async fn invalid_request_is_rejected_and_closed() {
    let server = both_at_once().await;
    let refused = async |requests: &[Value]| {
        let mut client = Client::connect(server.addr).await;
        let mut answer = Value::Null;
        for request in requests {
            answer = client.request_response(request.clone()).await;
        }
        assert_eq!(
            (&answer["statusCode"], &answer["connectionClosed"]),
            (&json!("FAILURE"), &json!(true))
        );
        assert_eq!(client.next().await, Value::Null);
        format!("{} {}", answer["id"], answer["errorCode"].as_str().unwrap())
    };
    let authentication = json!({"op":"authentication","id":1});
    assert_eq!(
        refused(&[json!({"op":"marketSubscription","id":2})]).await,
        "2 NOT_AUTHORIZED"
    );
    assert_eq!(
        refused(&[authentication.clone(), json!({"op":"dance","id":3})]).await,
        "3 INVALID_REQUEST"
    );
    assert_eq!(refused(&[json!("hello")]).await, "null INVALID_INPUT");
    for clocks in [
        json!(["x", "0.2"]),
        json!([null, "0.2"]),
        json!(["x", null]),
    ] {
        let [initial, clk] = [&clocks[0], &clocks[1]];
        let request = json!({"op":"marketSubscription","id":2,"initialClk":initial,"clk":clk});
        assert_eq!(
            refused(&[authentication.clone(), request]).await,
            "2 INVALID_CLOCK"
        );
    }
    let mut client = Client::connect(server.addr).await;
    client.request_response(authentication).await;
    assert_eq!(
        client
            .request_response(json!({"op":"heartbeat","id":9}))
            .await["id"],
        9
    );
}

/// Three messages of one market, `gap` ms apart.
fn short_recording(gap: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |index: u32| {
        let pt = 1_000 + index * gap;
        format!(
            r#"{{"op":"mcm","pt":{pt},"mc":[{{"id":"1.5","rc":[{{"id":7,"ltp":{}.50}}]}}]}}"#,
            index + 2
        )
    };
    std::fs::write(file.path(), [0, 1, 2].map(line).join("\n")).unwrap();
    file
}

#[tokio::test]
async fn messages_are_paced_by_timestamp() {
    let file = short_recording(4_000);
    let config = ReplayConfig {
        speed: Speed::Times(20.0),
        ..ReplayConfig::at_once(vec![file.path().to_owned()])
    };
    let server = start(config).await.unwrap();
    let mut client = Client::subscribed(server.addr, json!({})).await;
    let start = Instant::now();
    let messages = client.until_heartbeat().await;
    assert_eq!(messages.len(), 3);
    // The third is due after 400 ms, the heartbeat 500 ms later.
    assert!(
        start.elapsed() >= Duration::from_millis(890),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn loop_continues_with_later_times() {
    let file = short_recording(10);
    let config = ReplayConfig {
        looping: true,
        ..ReplayConfig::at_once(vec![file.path().to_owned()])
    };
    let server = start(config).await.unwrap();
    let mut client = Client::subscribed(server.addr, json!({})).await;
    let mut times = Vec::new();
    let mut clocks = Vec::new();
    for _ in 0..7 {
        let message = client.next().await;
        times.push(message["pt"].as_i64().unwrap());
        clocks.push((
            message["clk"].as_str().unwrap().to_owned(),
            message["mc"][0]["img"] == true,
        ));
    }
    assert_eq!(times, [1_000, 1_010, 1_020, 2_020, 2_030, 2_040, 3_040]);
    assert_eq!(clocks[3], ("1.1".to_owned(), true));
    // A client without matching markets gets heartbeats, and does not cause a busy loop.
    let mut client =
        Client::subscribed(server.addr, json!({"marketFilter":{"marketIds":["1.0"]}})).await;
    assert_eq!(client.until_heartbeat().await.len(), 1);
}

#[tokio::test]
async fn stalled_client_is_closed_alone() {
    let config = ReplayConfig {
        looping: true,
        write_timeout: Duration::from_secs(2),
        ..ReplayConfig::at_once(recordings())
    };
    let server = start(config).await.unwrap();
    let mut stalled = Client::subscribed(server.addr, json!({})).await;
    let mut other = Client::subscribed(server.addr, json!({})).await;
    assert_eq!(server.clients(), 2);
    let reading = async {
        while server.clients() == 2 {
            assert!(other.lines.next_line().await.unwrap().is_some());
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    assert!(other.lines.next_line().await.unwrap().is_some());
    // Data sent earlier can still be read, followed by the end of the stream.
    let ended = async { while let Ok(Some(_)) = stalled.lines.next_line().await {} };
    timeout(DEADLINE, ended).await.unwrap();
}

#[tokio::test]
async fn clients_reconnect_after_hang_up() {
    let server = both_at_once().await;
    let mut client = Client::subscribed(server.addr, json!({})).await;
    client.until_heartbeat().await;
    server.hang_up();
    assert_eq!(client.next().await, Value::Null);
    let addr = server.addr;
    let mut client = Client::subscribed(addr, json!({})).await;
    server.stop().await;
    while client.next().await != Value::Null {}
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn unusable_recording_or_address_fails_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"op\":\"mcm\",\"pt\":1}\nBZh91AY").unwrap();
    let error = start(ReplayConfig::at_once(vec![file.path().to_owned()]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("{}, line 2: ", file.path().display())),
        "{error}"
    );
    let server = both_at_once().await;
    let error = start(ReplayConfig {
        listen: server.addr,
        ..ReplayConfig::at_once(recordings())
    })
    .await
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {}: ", server.addr)),
        "{error}"
    );
}

#[test]
fn command_line_is_parsed() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ReplayArgs,
    }
    let parse =
        |line: &str| <Cli as clap::Parser>::try_parse_from(line.split(' ')).map(|cli| cli.args);
    let args = parse("replay a.jsonl b.jsonl").unwrap();
    assert_eq!(
        (args.speed, args.looping, args.files.len()),
        (Speed::Times(1.0), false, 2)
    );
    let args = parse("replay --format betfair --speed max --loop --listen 127.0.0.1:0 a").unwrap();
    assert_eq!(
        (args.speed, args.looping, args.listen.port()),
        (Speed::Max, true, 0)
    );
    assert!(parse("replay").is_err());
    for speed in ["0", "-1", "NaN", "inf", "fast", "1e9"] {
        assert!(
            parse(&format!("replay --speed={speed} a")).is_err(),
            "{speed}"
        );
    }
}
