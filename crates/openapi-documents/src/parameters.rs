//! The query parameters of operations, by name, each with a description of one sentence.

use crate::operations::{KubernetesAction, Operation};

/// A query parameter of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub name: &'static str,
    /// The OpenAPI type: `boolean`, `integer` or `string`.
    pub kind: &'static str,
    pub description: &'static str,
}

/// The query parameters of an operation; `pretty` is the last.
pub(crate) fn parameters(operation: &Operation<'_>) -> Vec<Parameter> {
    let stream: &[&str] = match operation.subresource {
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "log" => &[
            "container",
            "follow",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "tailLines",
            "timestamps",
        ],
        _ => &[],
    };
    let plain: &[&str] = if matches!(
        operation.action,
        KubernetesAction::Connect | KubernetesAction::Pass(_)
    ) {
        &[]
    } else {
        &["pretty"]
    };
    let names = operation
        .action
        .query_parameters()
        .iter()
        .chain(stream)
        .chain(plain);
    names
        .filter_map(|name| {
            PARAMETERS
                .iter()
                .find(|parameter| parameter.name == *name)
                .copied()
        })
        .collect()
}

const fn parameter(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter {
        name,
        kind,
        description,
    }
}

const PARAMETERS: &[Parameter] = &[
    parameter(
        "allowWatchBookmarks",
        "boolean",
        "Asks for BOOKMARK events, which carry the resource version reached.",
    ),
    parameter(
        "command",
        "string",
        "The command and its arguments; may be repeated.",
    ),
    parameter(
        "container",
        "string",
        "The container; may be left out if there is only one.",
    ),
    parameter("continue", "string", "The token of the list's former page."),
    parameter(
        "dryRun",
        "string",
        "With `All`, everything is checked and nothing is stored.",
    ),
    parameter(
        "fieldManager",
        "string",
        "Who makes the change, for managedFields.",
    ),
    parameter(
        "fieldSelector",
        "string",
        "Restricts the objects by their fields.",
    ),
    parameter(
        "fieldValidation",
        "string",
        "What becomes of unknown or duplicate fields: Ignore, Warn or Strict.",
    ),
    parameter("follow", "boolean", "Goes on as the container writes."),
    parameter(
        "force",
        "boolean",
        "Takes fields over from other managers (server-side apply).",
    ),
    parameter(
        "gracePeriodSeconds",
        "integer",
        "How long the object may take to end; 0 removes it at once.",
    ),
    parameter(
        "labelSelector",
        "string",
        "Restricts the objects by their labels.",
    ),
    parameter(
        "limit",
        "integer",
        "How many objects one page of the list may have.",
    ),
    parameter(
        "limitBytes",
        "integer",
        "How many bytes of the log are sent at most.",
    ),
    parameter(
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    parameter("ports", "integer", "The port to forward to."),
    parameter("pretty", "string", "With `true`, the answer is indented."),
    parameter(
        "previous",
        "boolean",
        "The log of the container's former run.",
    ),
    parameter(
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
    parameter(
        "resourceVersion",
        "string",
        "How recent the answer must be; where a watch starts.",
    ),
    parameter(
        "resourceVersionMatch",
        "string",
        "How resourceVersion is meant in a list.",
    ),
    parameter(
        "sendInitialEvents",
        "boolean",
        "Starts a watch with all objects and a bookmark after them.",
    ),
    parameter(
        "shardSelector",
        "string",
        "Restricts the list to a part of the hashes of uids. Alpha, and not looked at: all objects come.",
    ),
    parameter(
        "sinceSeconds",
        "integer",
        "Only what is not older than so many seconds.",
    ),
    parameter(
        "stderr",
        "boolean",
        "Whether the standard error stream is sent.",
    ),
    parameter(
        "stdin",
        "boolean",
        "Whether a standard input stream is sent.",
    ),
    parameter(
        "stdout",
        "boolean",
        "Whether the standard output stream is sent.",
    ),
    parameter("tailLines", "integer", "Only so many lines from the end."),
    parameter("timeoutSeconds", "integer", "How long the call may last."),
    parameter("timestamps", "boolean", "Starts each line with its time."),
    parameter("tty", "boolean", "Whether a terminal is allocated."),
    parameter(
        "watch",
        "boolean",
        "Sends changes as they happen instead of a list.",
    ),
];
