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
fn each_answer_leads_to_one_request() {
    let page = |version: &str, next: &str| Answer::Page {
        version: version.to_owned(),
        next: next.to_owned(),
    };
    let token = || Next::Page("c".to_owned());
    let watch = || Next::Watch("5".to_owned());
    let read = |version: &str| Next::Read(version.to_owned());
    let reached = |version: &str| Answer::Reached(version.to_owned());
    for (before, answer, expected) in [
        (Next::List, page("5", "c"), token()),
        (Next::List, page("", "c"), token()),
        (Next::List, page("5", ""), watch()),
        (token(), page("5", "c"), token()),
        (token(), page("5", ""), watch()),
        (token(), page("", ""), Next::List),
        (token(), Answer::NotListed, Next::List),
        (Next::List, Answer::NotListed, Next::List),
        (watch(), Answer::Started, read("5")),
        (watch(), Answer::NotStarted(None), watch()),
        (watch(), Answer::NotStarted(Some(500)), watch()),
        (watch(), Answer::NotStarted(Some(410)), Next::List),
        (read("4"), reached("5"), read("5")),
        (read("4"), reached(""), Next::List),
        (read("5"), Answer::Over(None), watch()),
        (read("5"), Answer::Over(Some(500)), watch()),
        (read("5"), Answer::Over(Some(410)), Next::List),
    ] {
        let shown = format!("{before:?} {answer:?}");
        assert_eq!(before.after(answer), expected, "{shown}");
    }
}

/// The response to one request.
enum Said {
    Refuse(u16),
    Json(Value),
    /// Lines, and whether the connection breaks after them.
    Lines(Vec<Value>, bool),
}

/// A server that responds to requests in turn, and records their queries. After the last response it is silent.
fn watcher(answers: Vec<Said>) -> (Watcher, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let answer = move |request: Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        notes.lock().unwrap().push(query);
        let answer = answers.lock().unwrap().pop_front();
        async move {
            let (code, body): (u16, ResponseBody) = match answer {
                None => std::future::pending().await,
                Some(Said::Refuse(code)) => (code, frames(vec![json!({"message": "no"})], false)),
                Some(Said::Json(value)) => (200, frames(vec![value], false)),
                Some(Said::Lines(lines, breaks)) => (200, frames(lines, breaks)),
            };
            let answer = Response::builder().status(code).body(body);
            Ok::<_, Infallible>(answer.unwrap())
        }
    };
    let client = Client::new(tower::service_fn(answer), "default");
    let config = Config::default().page_size(2);
    (
        Watcher::new(client, "/api/v1/pods".into(), false, config),
        asked,
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

fn list(names: &[&str], version: &str, next: &str) -> Said {
    let items: Vec<Value> = names.iter().map(|name| object(name, "1")).collect();
    Said::Json(json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}))
}

fn message(kind: &str, name: &str, version: &str) -> Value {
    json!({"type": kind, "object": object(name, version)})
}

/// The next events, until the server is silent.
async fn told(watcher: &mut Watcher) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(event) = timeout(Duration::from_secs(600), watcher.next()).await {
        let name = |object: &Bytes| {
            let object: Value = serde_json::from_slice(object).unwrap();
            object["metadata"]["name"].as_str().unwrap().to_owned()
        };
        told.push(match event {
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
    told
}

#[tokio::test(start_paused = true)]
async fn pages_come_before_changes_and_a_watch_resumes_where_it_ended() {
    let (mut watcher, asked) = watcher(vec![
        list(&["a", "b"], "5", "c/1"),
        list(&["d"], "5", ""),
        Said::Lines(
            vec![message("ADDED", "e", "6"), message("BOOKMARK", "", "9")],
            false,
        ),
        Said::Refuse(500),
        Said::Lines(
            vec![
                message("MODIFIED", "a", "10"),
                message("DELETED", "b", "11"),
            ],
            true,
        ),
    ]);
    let events = told(&mut watcher).await.join(" ");
    assert_eq!(events, "[ a b d ] ~e not started ~a -b broken");
    let watch = "watch=true&timeoutSeconds=T&allowWatchBookmarks=true&resourceVersion=";
    let asked: Vec<String> = asked
        .lock()
        .unwrap()
        .iter()
        .map(|query| without_time(query))
        .collect();
    assert_eq!(
        asked,
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
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410}});
    let failed = json!({"type": "ERROR", "object": {"kind": "Status", "code": 500}});
    let (mut watcher, _) = watcher(vec![
        list(&["a"], "5", ""),
        Said::Lines(vec![failed], false),
        Said::Lines(vec![gone], false),
        list(&["a"], "50", "c"),
        Said::Refuse(410),
        list(&["b"], "60", ""),
        Said::Refuse(410),
        list(&[], "70", ""),
    ]);
    let events = told(&mut watcher).await.join(" ");
    let expected = "[ a ] refused 500 refused 410 [ a not listed [ b ] not started [ ]";
    assert_eq!(events, expected);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_resumed() {
    let (mut watcher, asked) = watcher(vec![list(&[], "5", "")]);
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
        asked
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
        Said::Lines(
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
    assert_eq!(told(&mut watcher).await, ["~d"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_versions_is_an_error() {
    let (mut watcher, _) = watcher(vec![
        list(&["a"], "", ""),
        list(&[], "5", ""),
        Said::Lines(vec![message("ADDED", "c", "")], false),
        list(&[], "5", ""),
        Said::Lines(
            vec![json!({"type": "NEWS", "object": {}}), json!([])],
            false,
        ),
    ]);
    let events = told(&mut watcher).await.join(" ");
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
    let found = Some(("7".to_owned(), Bytes::from(object)));
    let written = format!(r#"{{"type":"ADDED","object":{object}}}"#);
    for line in [
        written.clone(),
        format!(r#"{{"object":{object},"type":"ADDED"}}"#),
        format!(r#"{{ "type" : "ADDED", "object" : {object} }}"#),
    ] {
        assert_eq!(read(&line, true), found);
        assert_eq!(read(&line, false), found);
    }
    for missing in 1..4 {
        assert_eq!(read(&written[..written.len() - missing], false), None);
    }
}
