use std::convert::Infallible;
use std::sync::Mutex;

use futures::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use json_tree::{Value, json};

use super::*;
use crate::transport::{Body, BoxError, ResponseBody};
use tokio::time::timeout;

#[test]
fn each_outcome_leads_to_one_request() {
    let page = |version: &str, next: &str| Outcome::Page {
        version: version.to_owned(),
        next: next.to_owned(),
    };
    let token = || Next::Page("c".to_owned());
    let watch = || Next::Watch("5".to_owned());
    let read = |version: &str| Next::Read(version.to_owned());
    let reached = |version: &str| Outcome::Reached(version.to_owned());
    for (before, outcome, expected) in [
        (Next::List, page("5", "c"), token()),
        (Next::List, page("", "c"), token()),
        (Next::List, page("5", ""), watch()),
        (token(), page("5", "c"), token()),
        (token(), page("5", ""), watch()),
        (token(), page("", ""), Next::List),
        (token(), Outcome::NotListed, Next::List),
        (Next::List, Outcome::NotListed, Next::List),
        (watch(), Outcome::Started, read("5")),
        (watch(), Outcome::NotStarted(None), watch()),
        (watch(), Outcome::NotStarted(Some(500)), watch()),
        (watch(), Outcome::NotStarted(Some(410)), Next::List),
        (read("4"), reached("5"), read("5")),
        (read("4"), reached(""), Next::List),
        (read("5"), Outcome::Over(None), watch()),
        (read("5"), Outcome::Over(Some(500)), watch()),
        (read("5"), Outcome::Over(Some(410)), Next::List),
    ] {
        let step = format!("{before:?} {outcome:?}");
        assert_eq!(before.after(outcome), expected, "{step}");
    }
}

/// The response to one request.
enum Script {
    Refuse(u16),
    Json(Value),
    /// Lines, and whether the connection breaks after them.
    Lines(Vec<Value>, bool),
}

/// A server that responds to requests in turn, and records their queries. After the last response it is silent.
fn watcher(responses: Vec<Script>) -> (Watcher, Arc<Mutex<Vec<String>>>) {
    let queries = Arc::new(Mutex::new(Vec::new()));
    let recorded = queries.clone();
    let responses = Arc::new(Mutex::new(VecDeque::from(responses)));
    let respond = move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        recorded.lock().unwrap().push(query);
        let scripted = responses.lock().unwrap().pop_front();
        async move {
            let (code, body): (u16, ResponseBody) = match scripted {
                None => std::future::pending().await,
                Some(Script::Refuse(code)) => (code, frames(vec![json!({"message": "no"})], false)),
                Some(Script::Json(value)) => (200, frames(vec![value], false)),
                Some(Script::Lines(lines, breaks)) => (200, frames(lines, breaks)),
            };
            let response = Response::builder().status(code).body(body);
            Ok::<_, Infallible>(response.unwrap())
        }
    };
    let client = Client::new(tower::service_fn(respond), "default");
    let config = Config::default().page_size(2);
    (
        Watcher::new(client, "/api/v1/pods".into(), false, config),
        queries,
    )
}

fn frames(lines: Vec<Value>, breaks: bool) -> ResponseBody {
    let lines = lines.into_iter().map(|line| Ok(format!("{line}\n")));
    let end = breaks.then(|| Err(BoxError::from("reset")));
    let frames = lines
        .chain(end)
        .map(|line| line.map(|text| Frame::data(Bytes::from(text))));
    BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())))
}

fn object(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

fn list(names: &[&str], version: &str, next: &str) -> Script {
    let items: Vec<Value> = names.iter().map(|name| object(name, "1")).collect();
    Script::Json(
        json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}),
    )
}

fn message(kind: &str, name: &str, version: &str) -> Value {
    json!({"type": kind, "object": object(name, version)})
}

/// The next events, until the server is silent.
async fn events_of(watcher: &mut Watcher) -> Vec<String> {
    let mut events = Vec::new();
    while let Ok(event) = timeout(Duration::from_secs(600), watcher.next()).await {
        let name = |object: &Bytes| {
            let object: Value = serde_json::from_slice(object).unwrap();
            object["metadata"]["name"].as_str().unwrap().to_owned()
        };
        events.push(match event {
            Ok(Event::Init) => "[".to_owned(),
            Ok(Event::InitApply(object)) => name(&object),
            Ok(Event::InitDone) => "]".to_owned(),
            Ok(Event::Apply(object)) => format!("~{}", name(&object)),
            Ok(Event::Delete(object)) => format!("-{}", name(&object)),
            Err(Error::List(_)) => "not listed".to_owned(),
            Err(Error::Start(_)) => "not started".to_owned(),
            Err(Error::Refused(status)) => format!("refused {}", status.code),
            Err(Error::Read(_)) => "broken".to_owned(),
            Err(Error::NoVersion) => "no version".to_owned(),
        });
    }
    events
}

#[tokio::test(start_paused = true)]
async fn pages_come_before_changes_and_a_watch_resumes_where_it_ended() {
    let (mut watcher, queries) = watcher(vec![
        list(&["a", "b"], "5", "c/1"),
        list(&["d"], "5", ""),
        Script::Lines(
            vec![message("ADDED", "e", "6"), message("BOOKMARK", "", "9")],
            false,
        ),
        Script::Refuse(500),
        Script::Lines(
            vec![
                message("MODIFIED", "a", "10"),
                message("DELETED", "b", "11"),
            ],
            true,
        ),
    ]);
    let events = events_of(&mut watcher).await.join(" ");
    assert_eq!(events, "[ a b d ] ~e not started ~a -b broken");
    let watch = "watch=true&timeoutSeconds=T&allowWatchBookmarks=true&resourceVersion=";
    let queries: Vec<String> = queries
        .lock()
        .unwrap()
        .iter()
        .map(|query| without_time(query))
        .collect();
    assert_eq!(
        queries,
        [
            "limit=2".to_owned(),
            "limit=2&continue=c%2F1".to_owned(),
            format!("{watch}5"),
            format!("{watch}9"),
            format!("{watch}9"),
            format!("{watch}11"),
        ]
    );
}

/// A query without the duration of its watch, a part of which is random.
fn without_time(query: &str) -> String {
    let field = "timeoutSeconds=";
    let Some((before, after)) = query.split_once(field) else {
        return query.to_owned();
    };
    let (time, after) = after.split_once('&').unwrap();
    assert!(
        (WATCH_SECONDS / 2..=WATCH_SECONDS).contains(&time.parse().unwrap()),
        "{query}"
    );
    format!("{before}{field}T&{after}")
}

#[tokio::test(start_paused = true)]
async fn a_compacted_version_causes_a_new_list() {
    let compacted = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410}});
    let failed = json!({"type": "ERROR", "object": {"kind": "Status", "code": 500}});
    let (mut watcher, _) = watcher(vec![
        list(&["a"], "5", ""),
        Script::Lines(vec![failed], false),
        Script::Lines(vec![compacted], false),
        list(&["a"], "50", "c"),
        Script::Refuse(410),
        list(&["b"], "60", ""),
        Script::Refuse(410),
        list(&[], "70", ""),
    ]);
    let events = events_of(&mut watcher).await.join(" ");
    let expected = "[ a ] refused 500 refused 410 [ a not listed [ b ] not started [ ]";
    assert_eq!(events, expected);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_resumed() {
    let (mut watcher, queries) = watcher(vec![list(&[], "5", "")]);
    let silent = stream::pending::<Result<Frame<Bytes>, BoxError>>();
    for _ in 0..2 {
        watcher.next().await.unwrap();
    }
    watcher.next = Next::Read("7".to_owned());
    watcher.stream = Some(ResponseLines::new(BodyExt::boxed_unsync(StreamBody::new(
        silent,
    ))));
    assert!(timeout(SILENCE_MAX * 2, watcher.next()).await.is_err());
    assert_eq!(watcher.next, Next::Watch("7".to_owned()));
    assert!(
        queries
            .lock()
            .unwrap()
            .last()
            .unwrap()
            .ends_with("resourceVersion=7")
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_does_not_stop_the_others() {
    let error = || serde_json::from_str::<Value>("").unwrap_err();
    let (mut watcher, _) = watcher(vec![
        list(&["a", "b"], "5", ""),
        list(&["a"], "6", ""),
        Script::Lines(
            vec![message("ADDED", "c", "7"), message("ADDED", "d", "8")],
            false,
        ),
    ]);
    assert_eq!(watcher.next().await.unwrap(), Event::Init);
    watcher.next().await.unwrap();
    assert!(matches!(watcher.undecodable(error()), Error::List(_)));
    for _ in 0..4 {
        watcher.next().await.unwrap();
    }
    assert!(matches!(watcher.undecodable(error()), Error::Read(_)));
    assert_eq!(events_of(&mut watcher).await, ["~d"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_versions_is_an_error() {
    let (mut watcher, _) = watcher(vec![
        list(&["a"], "", ""),
        list(&[], "5", ""),
        Script::Lines(vec![message("ADDED", "c", "")], false),
        list(&[], "5", ""),
        Script::Lines(
            vec![json!({"type": "NEWS", "object": {}}), json!([])],
            false,
        ),
    ]);
    let events = events_of(&mut watcher).await.join(" ");
    assert_eq!(events, "no version [ ] no version [ ] broken");
}

/// The object ends with the message. A message that was cut off is read to its end, so that the start of an object is
/// not mistaken for the whole object.
#[test]
fn the_object_of_a_message_is_found_in_any_form_but_not_in_a_part() {
    let object = r#"{"metadata":{"name":"}{","resourceVersion":"7"},"spec":{}}"#;
    let read = |line: &str, whole: bool| match Message::read(&line.to_owned().into(), whole) {
        Ok(Message::Event(version, Some(Event::Apply(object)))) => Some((version, object)),
        _ => None,
    };
    let expected = Some(("7".to_owned(), Bytes::from(object)));
    let written = format!(r#"{{"type":"ADDED","object":{object}}}"#);
    for line in [
        written.clone(),
        format!(r#"{{"object":{object},"type":"ADDED"}}"#),
        format!(r#"{{ "type" : "ADDED", "object" : {object} }}"#),
    ] {
        assert_eq!(read(&line, true), expected);
        assert_eq!(read(&line, false), expected);
    }
    for missing in 1..4 {
        assert_eq!(read(&written[..written.len() - missing], false), None);
    }
}
