//! Watches, decoded.

use anyhow::{Context, Result, bail};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;

use crate::call::{Call, text};

/// Lists a collection, without its objects, and follows its changes: the arguments are whether the object is gone,
/// and the object. Returns only with an error.
pub async fn follow(client: &Client, path: &str, mut see: impl FnMut(bool, Value)) -> Result<()> {
    let list = Call::get(path.to_owned()).json(client).await?;
    let version = text(&list, "/metadata/resourceVersion")?;
    let and = if path.contains('?') { '&' } else { '?' };
    let uri = format!("{path}{and}watch=true&resourceVersion={version}");
    let request = Request::get(uri).body(Body::empty())?;
    let reply = client.send(request).await.context("open a watch")?;
    if !reply.status().is_success() {
        bail!("a watch is answered {}", reply.status());
    }
    let mut body = reply.into_body();
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("a watch broke off")?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for line in lines.push(&data) {
            let mut event: Value = serde_json::from_slice(&line).context("a watch event")?;
            let is_gone = event["type"] == "DELETED";
            if event["type"] == "ERROR" {
                bail!("a watch failed: {}", event["object"]["message"]);
            }
            see(is_gone, event["object"].take());
        }
    }
    bail!("the server ended a watch of {path}")
}

/// Splits the bytes of a watch into its lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        self.rest.extend_from_slice(data);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        let lines = whole.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        assert!(lines.push(b"{\"a\"").is_empty());
        assert_eq!(
            lines.push(b":1}\n{}\n{"),
            [b"{\"a\":1}".to_vec(), b"{}".to_vec()]
        );
        assert_eq!(lines.push(b"}\n"), [b"{}".to_vec()]);
    }
}
