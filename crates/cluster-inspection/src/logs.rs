//! The last lines of the logs that an explanation names.

use diagnosis::{Explanation, Finding, Log};
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, Client, LogParams};

/// Maximum number of printed lines of a log.
const LINES: i64 = 10;
/// Maximum number of bytes that are read of these lines.
const BYTES: i64 = 64 * 1024;
/// Maximum number of printed characters of a line.
const LINE_MAX: usize = 300;

/// Reads the logs for the explanations. Without permission, an explanation gets a note instead.
pub async fn attach(client: &Client, explanations: &mut [Explanation]) -> Option<String> {
    let mut refused = None;
    let chains = explanations
        .iter_mut()
        .flat_map(|explanation| &mut explanation.chains);
    for link in chains.flat_map(|chain| &mut chain.links) {
        let Log::Readable { previous } = link.log else {
            continue;
        };
        link.log = match read(client, link, previous).await {
            Ok(lines) if lines.is_empty() => Log::NotNeeded,
            Ok(lines) => Log::Read(lines),
            Err(kube_api_client::Error::Api(status)) if status.code == 403 => {
                refused = Some(status.message);
                Log::NotNeeded
            }
            // The explanation is valid without the log, which may have been removed with its container.
            Err(error) => {
                tracing::debug!(%error, "log not read");
                Log::NotNeeded
            }
        };
    }
    let message = refused?;
    Some(format!(
        "the last lines of the log were not read: {message}"
    ))
}

async fn read(
    client: &Client,
    link: &Finding,
    previous: bool,
) -> Result<Vec<String>, kube_api_client::Error> {
    let namespace = link.object.namespace.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = LogParams {
        container: link.container.clone(),
        previous,
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        ..LogParams::default()
    };
    let text = pods.logs(&link.object.name, &parameters).await?;
    Ok(lines(&text))
}

/// The lines without control characters.
fn lines(text: &str) -> Vec<String> {
    let printable = |line: &str| {
        let visible = line.chars().map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        });
        visible.take(LINE_MAX).collect::<String>()
    };
    let lines = text.lines().map(str::trim_end);
    lines
        .filter(|line| !line.is_empty())
        .map(printable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings U3: a program's output cannot control the terminal.
    #[test]
    fn lines_are_shown_without_control_characters() {
        assert_eq!(
            lines("a\n\n  b\tc\u{1b}[31m\r\n"),
            ["a", "  b c\u{fffd}[31m"]
        );
        assert_eq!(lines(&"x".repeat(1000))[0].len(), LINE_MAX);
    }
}
