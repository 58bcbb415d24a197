//! `GET /containerLogs/{namespace}/{pod}/{container}` (kubectl.md 5.7), as a body or as messages.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerStatus;
use object_model::Status;
use pod_lifecycle::record::Instance;
use tokio::sync::mpsc;

use super::log_messages::Protocol;
use super::query::{first_value, is_set, parameters};
use super::recent_reads::{ContainerInstance, RecentReads};
use super::response::{BoxBody, BoxError, RequestTarget, error_status, uid_of};
use super::upgrade::{Transport, accept, none_offered};
use super::{log_messages, streams};
use crate::containers::logs::{self, LogQuery};
use crate::pods::pod_manager::{PodManager, PodView};

/// Maximum number of chunks that wait for a slow reader.
const CHUNKS_MAX: usize = 4;

/// The reason why a log is not sent.
#[derive(Debug, thiserror::Error)]
enum LogRequestError {
    #[error("{name}: invalid value {text:?}")]
    InvalidValue { name: &'static str, text: String },
    #[error("container \"{container}\" in pod \"{pod}\" is not available")]
    NotAvailable { pod: String, container: String },
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious { pod: String, container: String },
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: {cause}")]
    Waiting {
        pod: String,
        container: String,
        cause: String,
    },
}

pub fn respond(
    pods: &Arc<PodManager>,
    reads: &RecentReads,
    target: &RequestTarget<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let parameters = parameters(request.uri().query());
    let bad_request =
        |error: LogRequestError| error_status(StatusCode::BAD_REQUEST, &error.to_string());
    let query = query(&parameters).map_err(bad_request)?;
    let view = target.find(pods)?;
    let previous = is_set(&parameters, "previous");
    let (path, number) = log_of(&view, target, previous).map_err(bad_request)?;
    let messages = match Transport::from_request(&request) {
        Ok(Transport::WebSocket(offered)) => {
            let protocol = Protocol::choose(&offered);
            let supported = || Protocol::NAMED.into_iter().map(Protocol::name);
            Some(protocol.ok_or_else(|| none_offered(supported()))?)
        }
        _ => None,
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let is_over = is_over(pods.clone(), target, &view, number);
    let is_whole_log = query == LogQuery::default() && !previous;
    let instance = instance_of(&view, target.container, number)?;
    let pending_read = is_whole_log.then(|| (reads.clone(), instance));
    tokio::spawn(async move {
        // The sender is cloned, because the response ends when the last sender is dropped, and a message
        // may follow the log.
        let open_sender = sender.clone();
        let last_line = logs::send(path, query, is_over, sender).await;
        if let Some((reads, instance)) = pending_read {
            reads.record(instance, last_line);
        }
        drop(open_sender);
    });
    if let Some(protocol) = messages {
        return accept(request, protocol.name(), move |connection| async move {
            log_messages::send(streams::socket(connection).await, protocol, receiver).await;
        });
    }
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk.map(Frame::data).map_err(BoxError::from), receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let text_plain = header::HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, text_plain);
    Ok(response)
}

/// The key of an instance of a container.
pub fn instance_of(
    view: &PodView,
    container: &str,
    number: u32,
) -> Result<ContainerInstance, Box<Status>> {
    Ok(ContainerInstance {
        pod: uid_of(view)?,
        container: container.to_owned(),
        number,
    })
}

fn query(parameters: &[(String, String)]) -> Result<LogQuery, LogRequestError> {
    let invalid = |name, text: &str| LogRequestError::InvalidValue {
        name,
        text: text.to_owned(),
    };
    let number = |name| match first_value(parameters, name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse::<usize>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(name, text)),
        },
    };
    let seconds = number("sinceSeconds")?.and_then(|seconds| i64::try_from(seconds).ok());
    let relative_start = seconds.map(|seconds| seconds_before(Timestamp::now(), seconds));
    let since = match first_value(parameters, "sinceTime").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let time = text.parse::<Timestamp>();
            Some(time.map_err(|_| invalid("sinceTime", text))?)
        }
    };
    Ok(LogQuery {
        follow: is_set(parameters, "follow"),
        timestamps: is_set(parameters, "timestamps"),
        since: since.or(relative_start),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    })
}

/// The time that is `seconds` before `now`; at least the minimum of the calendar.
fn seconds_before(now: Timestamp, seconds: i64) -> Timestamp {
    let duration = SignedDuration::from_secs(seconds);
    now.checked_sub(duration).unwrap_or_else(|_| {
        cov_mark::hit!(findings_s32_logs);
        Timestamp::MIN
    })
}

/// The path of the requested instance's log, and the number of the instance.
fn log_of(
    view: &PodView,
    target: &RequestTarget<'_>,
    previous: bool,
) -> Result<(PathBuf, u32), LogRequestError> {
    let RequestTarget { pod, container, .. } = target;
    let status = status_of(view, container);
    let (Some(status), Some(record)) = (status, view.record.containers.get(*container)) else {
        if let Some(status) = status {
            return Err(waiting(target, status));
        }
        return Err(LogRequestError::NotAvailable {
            pod: pod.to_string(),
            container: container.to_string(),
        });
    };
    let log = |number: u32| (view.dir.log(container, number), number);
    if previous {
        let previous_number = match &record.instance {
            // While the container waits for its next instance, the instance that exited last is the
            // previous instance.
            Instance::Refused(_) | Instance::Starting { .. } => Some(record.restart_count),
            Instance::Exited(_) if is_waiting(status) => Some(record.restart_count),
            _ => record.restart_count.checked_sub(1),
        };
        let previous_number =
            previous_number.filter(|_| record.ended().is_some() || record.last_exit.is_some());
        let log = previous_number.map(log).filter(|(path, _)| path.exists());
        return log.ok_or_else(|| LogRequestError::NoPrevious {
            pod: pod.to_string(),
            container: container.to_string(),
        });
    }
    match &record.instance {
        Instance::Running(_) | Instance::Exited(_) => Ok(log(record.restart_count)),
        _ if record.ended().is_some() => Ok(log(record.restart_count)),
        _ => Err(waiting(target, status)),
    }
}

fn status_of<'a>(view: &'a PodView, container: &str) -> Option<&'a ContainerStatus> {
    let status = &view.status;
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    let mut statuses = main.chain(init).chain(ephemeral);
    statuses.find(|status| status.name == container)
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status
        .state
        .as_ref()
        .is_some_and(|state| state.waiting.is_some())
}

fn waiting(target: &RequestTarget<'_>, status: &ContainerStatus) -> LogRequestError {
    let RequestTarget { pod, container, .. } = target;
    let waiting = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let cause = match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        "" => "no logs yet",
        other_reason => other_reason,
    };
    LogRequestError::Waiting {
        pod: pod.to_string(),
        container: container.to_string(),
        cause: cause.to_owned(),
    }
}

/// A function that returns whether the instance has exited, so that its log is complete.
fn is_over(
    pods: Arc<PodManager>,
    target: &RequestTarget<'_>,
    view: &PodView,
    number: u32,
) -> impl Fn() -> bool + Send + use<> {
    let (ns, pod) = (target.ns.to_owned(), target.pod.to_owned());
    let container = target.container.to_owned();
    let uid = view.pod.metadata.uid.clone();
    move || {
        let Some(view) = pods.find(&ns, &pod) else {
            return true;
        };
        let record = view.record.containers.get(&container);
        let is_running = record.is_some_and(|record| {
            matches!(record.instance, Instance::Running(_)) && record.restart_count == number
        });
        view.pod.metadata.uid != uid || !is_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S32: a number of seconds beyond the calendar selects the whole log.
    #[test]
    fn any_number_of_seconds_is_a_time() {
        cov_mark::check!(findings_s32_logs);
        let since = |seconds: usize| {
            let pair = ("sinceSeconds".to_owned(), seconds.to_string());
            query(&[pair]).expect("a number").since
        };
        for seconds in [usize::try_from(i64::MAX).expect("64 bits"), 1 << 40] {
            assert_eq!(since(seconds), Some(Timestamp::MIN));
        }
        assert!(since(1) < Some(Timestamp::now()));
    }
}
