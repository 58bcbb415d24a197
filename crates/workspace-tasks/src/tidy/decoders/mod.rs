//! Every decoder of untrusted input has a target of the fuzzer.
//!
//! A decoder is recognised by the calls and the signatures in [`MARKS`]. [`TABLE`] lists for each
//! file with one the fuzz targets, or the trusted source of its input.

use std::collections::BTreeSet;

use super::checkout::{AROUND, Finding, SourceFile};

/// The tools that run in a user's container, and not in the server or the node.
const IN_CONTAINERS: &str = "debug-tools";

/// Marks of decoders.
const MARKS: &[&str] = &[
    "A::decode(",
    "impl From<api::",
    "'static ResponseDecoder",
    "json_text::",
    "object_decoders::from_slice",
    "object_model::protobuf::",
    "Cursor::new(text)",
    "serde_json::from_slice",
    "serde_json::from_str",
    "serde_json::from_reader",
    "serde_json::Deserializer::from",
    "serde_saphyr::from",
    "serde_saphyr::options",
    "from_der(",
    "from_pem(",
    "pem_slice_iter(",
    "parse_x509",
    "Message::from_vec(",
    "Archive::new(",
    "GzDecoder::new(",
    "StreamingDecoder::new",
    "WebSocket::from_raw_socket(",
    "STANDARD.decode(",
    "NO_PAD.decode(",
    "fn decode(bytes: &[u8]",
    "fn decode(key: &",
    "fn decode(part: &str",
    "fn decode(text: &str",
    "fn parse(bytes: &[u8]",
    "fn parse(line: &[u8]",
    "fn parse(mut bytes: Bytes",
    "fn parse(pem: &[u8]",
    "fn parse(reference: &str",
    "fn parse(source: &str",
    "fn parse(table: &[u8]",
    "fn parse(text: &str",
    "fn parse_pax(",
    "fn read(bytes: &[u8]",
    "fn read_control(",
];

/// The source of a file's input.
enum InputSource {
    /// Strangers; these targets feed it.
    ByStrangers(&'static [&'static str]),
    /// Trusted input, with the reason.
    ByOurs(&'static str),
}

use InputSource::{ByOurs, ByStrangers};

const ADMINISTRATOR: InputSource = ByOurs("a file or flag of the administrator");
const PRIVATE_FILE: InputSource =
    ByOurs("a file in the data directory, which only the program writes");
const KUBECONFIG: InputSource =
    ByOurs("a kubeconfig of the user, or the output of a program that it names");
const ISSUED: InputSource =
    ByOurs("a certificate that the cluster issued to the node, and its key");
const STORED: InputSource = ByOurs("what the program itself has stored");
const TREES: InputSource = ByOurs("members of trees, which other files decode");
const SHIM: InputSource = ByOurs("messages between the program and its shims");

const SERVER: InputSource =
    ByOurs("answers of the API server, whose text is checked as JSON when it is decoded");

const RBD: InputSource = ByOurs("answers of the program rbd, which the administrator installed");

/// Expressions of users.
const CEL: InputSource = ByStrangers(&["cel"]);

const TABLE: &[(&str, InputSource)] = &[
    ("kube-api-client/src/client.rs", SERVER),
    ("kube-api-client/src/error.rs", SERVER),
    ("kube-api-client/src/list.rs", SERVER),
    ("kube-api-client/src/watch/mod.rs", SERVER),
    ("controller-framework/src/cache/mod.rs", SERVER),
    ("controllers/src/inventory.rs", SERVER),
    ("controllers/src/node_lifecycle/record.rs", PRIVATE_FILE),
    ("resource-kinds/src/pod_view/sharing.rs", SERVER),
    ("object-decoders/src/lib.rs", SERVER),
    ("controller-planners/src/stateful_set/revisions.rs", TREES),
    ("resource-kinds/src/pod_view/text.rs", SERVER),
    (
        "kube-api-server/src/access/audit/mod.rs",
        ByStrangers(&["sub-resources", "json"]),
    ),
    ("kube-api-server/src/access/audit/policy.rs", ADMINISTRATOR),
    (
        "kube-api-server/src/admission/configuration.rs",
        ADMINISTRATOR,
    ),
    (
        "kube-api-server/src/access/authorize/refresh.rs",
        ByOurs("roles and bindings, validated before they were stored"),
    ),
    (
        "kube-api-server/src/http/decode/mod.rs",
        ByStrangers(&["json", "yaml"]),
    ),
    (
        "kube-api-server/src/admission/dynamic_admission/responses.rs",
        ByStrangers(&["webhook-answer"]),
    ),
    (
        "kube-api-server/src/catalog/remote.rs",
        ByStrangers(&["extension-discovery"]),
    ),
    (
        "kube-api-server/src/catalog/openapi.rs",
        ByOurs("the index of documents, which the server has made"),
    ),
    ("json-text/src/find.rs", ByStrangers(&["json-text"])),
    ("kubeconfig/src/plugin.rs", KUBECONFIG),
    ("kubeconfig/src/read.rs", KUBECONFIG),
    ("kubeconfig/src/select.rs", KUBECONFIG),
    (
        "outbound-http/src/tls.rs",
        ByStrangers(&["certificate-bundle"]),
    ),
    (
        "kube-api-server/src/http/configured_servers/mod.rs",
        ByStrangers(&["certificate-bundle"]),
    ),
    (
        "kube-api-server/src/objects/version_conversion/call.rs",
        ByStrangers(&["conversion-answer"]),
    ),
    (
        "kube-api-server/src/objects/version_conversion/mod.rs",
        TREES,
    ),
    (
        "kube-api-server/src/objects/encryption/config.rs",
        ADMINISTRATOR,
    ),
    (
        "kube-api-server/src/http/body.rs",
        ByOurs("the program's own document"),
    ),
    (
        "kube-api-server/src/http/protobuf/read.rs",
        ByStrangers(&["protobuf"]),
    ),
    (
        "kube-api-server/src/http/protobuf/repeats.rs",
        ByStrangers(&["protobuf"]),
    ),
    (
        "kube-api-server/src/http/protobuf/transcode.rs",
        ByStrangers(&["protobuf", "json-text"]),
    ),
    (
        "kube-api-server/src/http/protobuf/write.rs",
        ByStrangers(&["protobuf"]),
    ),
    (
        "kube-api-server/src/http/query.rs",
        ByStrangers(&["request"]),
    ),
    (
        "kube-api-server/src/http/reply.rs",
        ByOurs("the server's own answer"),
    ),
    (
        "kube-api-server/src/handlers/resource_metrics/mod.rs",
        ByOurs("figures of the program's own node agent"),
    ),
    ("certificates/src/joining.rs", ADMINISTRATOR),
    ("kube-api-server/src/bootstrap.rs", STORED),
    ("kube-api-server/src/objects/rewrite.rs", STORED),
    ("kube-api-server/src/handlers/selection.rs", STORED),
    ("kube-api-server/src/handlers/verbs/delete.rs", STORED),
    ("kube-api-server/src/objects/storage/encode.rs", STORED),
    (
        "kube-api-server/src/objects/storage/managed_fields.rs",
        STORED,
    ),
    ("kube-api-server/src/objects/storage/parts.rs", STORED),
    (
        "kube-api-server/src/admission/kind_types.rs",
        ByOurs("the OpenAPI document of this server"),
    ),
    ("kube-api-server/src/objects/storage/mod.rs", STORED),
    (
        "kube-api-server/src/objects/version_conversion/mod.rs",
        STORED,
    ),
    ("kube-api-server/src/objects/storage/scan.rs", STORED),
    ("json-text/src/tree.rs", STORED),
    (
        "kube-api-server/src/handlers/subresources/forward.rs",
        ByOurs("answers of the program's own node agent"),
    ),
    (
        "kube-api-server/src/handlers/subresources/proxy.rs",
        ByStrangers(&["request"]),
    ),
    ("kube-api-server/src/access/tls.rs", ADMINISTRATOR),
    (
        "kube-api-server/src/handlers/verbs/list.rs",
        ByStrangers(&["request"]),
    ),
    ("certificates/src/authority.rs", PRIVATE_FILE),
    ("certificates/src/identity.rs", PRIVATE_FILE),
    (
        "certificates/src/inspect.rs",
        ByStrangers(&["certificate-request"]),
    ),
    (
        "certificates/src/signing.rs",
        ByStrangers(&["certificate-request"]),
    ),
    (
        "certificates/src/subject.rs",
        ByStrangers(&["client-certificate"]),
    ),
    ("certificates/src/shared/seal.rs", STORED),
    ("certificates/src/token_keys.rs", PRIVATE_FILE),
    ("certificates/src/tokens.rs", ByStrangers(&["token"])),
    ("container-runtime/src/client/connection.rs", SHIM),
    ("container-runtime/src/client/session.rs", SHIM),
    (
        "host-kernel/src/mount_table.rs",
        ByOurs("the kernel's table of mounts"),
    ),
    ("container-runtime/src/shim/sandbox/calls.rs", SHIM),
    (
        "container-runtime/src/shim/confinement/seccomp_profile.rs",
        ADMINISTRATOR,
    ),
    ("container-runtime/src/shim/sandbox/supervisor.rs", SHIM),
    ("container-runtime/src/shim/container/worker.rs", SHIM),
    ("container-runtime/src/state_dir.rs", PRIVATE_FILE),
    ("cel-evaluator/src/functions/times.rs", CEL),
    ("cel-evaluator/src/url.rs", CEL),
    ("custom-resources/src/cel_values.rs", CEL),
    ("custom-resources/src/expression.rs", CEL),
    (
        "custom-resources/src/json_path.rs",
        ByStrangers(&["json-path"]),
    ),
    ("cluster-dns/src/decoders.rs", ByStrangers(&["dns"])),
    ("cluster-dns/src/forward.rs", ByStrangers(&["dns"])),
    ("cluster-dns/src/upstreams.rs", ADMINISTRATOR),
    ("cluster-dns/src/wire.rs", ByStrangers(&["dns"])),
    (
        "image-store/src/compression.rs",
        ByStrangers(&["image-archive"]),
    ),
    (
        "image-store/src/digest.rs",
        ByStrangers(&["image-manifest"]),
    ),
    ("image-store/src/import.rs", ByStrangers(&["image-archive"])),
    ("image-store/src/index.rs", PRIVATE_FILE),
    (
        "image-store/src/manifest.rs",
        ByStrangers(&["image-manifest"]),
    ),
    (
        "image-store/src/pull/client.rs",
        ByStrangers(&["registry-answer"]),
    ),
    (
        "image-store/src/reference.rs",
        ByStrangers(&["image-reference"]),
    ),
    ("image-store/src/registries.rs", ADMINISTRATOR),
    ("image-store/src/unpack/parents.rs", PRIVATE_FILE),
    (
        "image-store/src/unpack/entry.rs",
        ByStrangers(&["pax", "tar-header"]),
    ),
    ("file-archive/src/reading.rs", ADMINISTRATOR),
    ("control-plane/src/backup_contents/mod.rs", ADMINISTRATOR),
    ("instance-backup/src/backup.rs", STORED),
    ("instance-backup/src/restore.rs", ADMINISTRATOR),
    (
        "load-generator/src/call.rs",
        ByOurs("the server's own answer"),
    ),
    (
        "load-generator/src/follow.rs",
        ByOurs("the watch events of the server that is measured"),
    ),
    ("control-plane/src/cluster_network.rs", PRIVATE_FILE),
    ("control-plane/src/relocation.rs", STORED),
    ("data-directory/src/marker.rs", PRIVATE_FILE),
    (
        "builtin-images/src/hello/peers.rs",
        ByOurs("a program for trying out, in a container of its own"),
    ),
    ("program-installation/src/record.rs", ADMINISTRATOR),
    ("mainstay/src/kubeconfig.rs", ADMINISTRATOR),
    ("node-membership/src/membership.rs", PRIVATE_FILE),
    (
        "data-directory/src/process.rs",
        ByOurs("the kernel's words about a process"),
    ),
    ("instance-backup/src/store/file.rs", ADMINISTRATOR),
    ("instance-backup/src/store/into_directory.rs", STORED),
    (
        "manifest-apply/src/apply.rs",
        ByOurs("the server's own answer"),
    ),
    (
        "manifest-apply/src/kubectl_apply.rs",
        ByOurs("the server's own answer"),
    ),
    ("manifest-apply/src/manifests.rs", ADMINISTRATOR),
    ("mainstay/src/up/settings.rs", ADMINISTRATOR),
    ("mvcc-store/src/embedded/record.rs", PRIVATE_FILE),
    ("cluster-dns/src/zone_file.rs", PRIVATE_FILE),
    ("node-agent/src/clock.rs", PRIVATE_FILE),
    (
        "node-agent/src/containers/service_variables.rs",
        PRIVATE_FILE,
    ),
    ("node-agent/src/config.rs", ISSUED),
    (
        "node-agent/src/images/mod.rs",
        ByStrangers(&["pull-secret"]),
    ),
    (
        "node-agent/src/kubelet_api/decoders.rs",
        ByStrangers(&["web-socket"]),
    ),
    (
        "node-agent/src/kubelet_api/https/mod.rs",
        ByOurs("the certificate of the cluster's authority, which the agent was started with"),
    ),
    (
        "node-agent/src/kubelet_api/network.rs",
        ByOurs("the kernel's table"),
    ),
    (
        "node-agent/src/kubelet_api/query.rs",
        ByStrangers(&["request"]),
    ),
    (
        "node-agent/src/kubelet_api/session.rs",
        ByStrangers(&["web-socket"]),
    ),
    (
        "node-agent/src/kubelet_api/streams.rs",
        ByStrangers(&["web-socket"]),
    ),
    (
        "node-agent/src/containers/logs.rs",
        ByOurs("lines that the shim writes; what containers print is their last part"),
    ),
    (
        "resource-kinds/src/groups/storage/volume_move.rs",
        ByOurs("an annotation of a volume, which administrators and controllers write"),
    ),
    (
        "resource-kinds/src/groups/storage/volume_replication.rs",
        ByOurs("an annotation of a volume, which administrators and controllers write"),
    ),
    (
        "volume-storage/src/volume_replication/directories.rs",
        ByOurs("the epoch of a volume, which this node has written"),
    ),
    (
        "controllers/src/volume_move/calls.rs",
        ByOurs("answers of nodes, which the API server has authenticated"),
    ),
    (
        "volume-storage/src/pool_image.rs",
        ByOurs("part of the program"),
    ),
    ("node-agent/src/csi_volumes/csi_node.rs", SERVER),
    ("node-agent/src/csi_volumes/records.rs", PRIVATE_FILE),
    ("node-agent/src/devices/allocation_record.rs", PRIVATE_FILE),
    ("node-agent/src/devices/cdi/spec.rs", ADMINISTRATOR),
    ("node-agent/src/devices/claims/records.rs", PRIVATE_FILE),
    (
        "node-agent/src/devices/plugins/resource_names.rs",
        PRIVATE_FILE,
    ),
    ("node-agent/src/volumes/rbd/mod.rs", PRIVATE_FILE),
    ("rbd-images/src/program.rs", RBD),
    ("node-agent/src/pods/recovery.rs", PRIVATE_FILE),
    ("object-model/src/semver.rs", CEL),
    ("object-model/src/cron.rs", ByStrangers(&["schedule"])),
    (
        "object-model/src/selector/field.rs",
        ByStrangers(&["field-selector"]),
    ),
    (
        "object-model/src/selector/mod.rs",
        ByStrangers(&["label-selector"]),
    ),
    (
        "controller-planners/src/volume_snapshot/on_node.rs",
        ByStrangers(&["snapshot-handle"]),
    ),
    (
        "openapi-documents/src/definitions.rs",
        ByOurs("the definitions, packed by the build script"),
    ),
    (
        "pod-lifecycle/src/environment/resolv_conf.rs",
        ADMINISTRATOR,
    ),
    ("pod-network/src/ranges.rs", PRIVATE_FILE),
    (
        "resource-kinds/src/groups/autoscaling/horizontal_pod_autoscaler/v1.rs",
        ByStrangers(&["annotations"]),
    ),
    (
        "resource-kinds/src/bootstrap.rs",
        ByOurs("part of the program"),
    ),
    ("resource-kinds/src/json/parts.rs", TREES),
    ("resource-kinds/src/kind/reads.rs", TREES),
    ("resource-kinds/src/validation/field.rs", TREES),
    (
        "resource-kinds/src/groups/certificates/request.rs",
        ByStrangers(&["certificate-request"]),
    ),
    (
        "resource-kinds/src/groups/snapshot.rs",
        ByOurs("part of the program"),
    ),
    (
        "resource-kinds/src/groups/stateful_set_policy/mod.rs",
        ByOurs("part of the program"),
    ),
    (
        "resource-kinds/src/groups/stateful_set_policy/check.rs",
        ByStrangers(&["guard-check"]),
    ),
    (
        "resource-kinds/src/groups/stateful_set_policy/hooks.rs",
        ByStrangers(&["guard-check"]),
    ),
    (
        "resource-kinds/src/groups/stateful_set_policy/steps.rs",
        ByStrangers(&["claim-templates"]),
    ),
    (
        "resource-kinds/src/groups/stateful_set_policy/claims.rs",
        ByStrangers(&["claim-templates"]),
    ),
    (
        "resource-kinds/src/groups/apps/stateful_set/claim_templates.rs",
        ByStrangers(&["claim-templates"]),
    ),
    (
        "controller-planners/src/stateful_set/claim_edits/metadata.rs",
        ByStrangers(&["claim-templates"]),
    ),
    (
        "controller-planners/src/stateful_set/verdict.rs",
        ByStrangers(&["claim-templates"]),
    ),
    ("csi-client/src/messages.rs", ByStrangers(&["csi-answers"])),
    (
        "etcd-store/src/messages.rs",
        ByStrangers(&["etcd-messages"]),
    ),
    ("etcd-store/src/origin.rs", ByStrangers(&["etcd-messages"])),
    (
        "rpc-channel/src/channel.rs",
        ByStrangers(&["etcd-messages", "csi-answers", "service-answers"]),
    ),
    (
        "rpc-channel/src/method.rs",
        ByStrangers(&["service-answers"]),
    ),
    (
        "service-protocols/src/lib.rs",
        ByStrangers(&["service-answers"]),
    ),
    ("spdy/src/frame.rs", ByStrangers(&["spdy"])),
    ("spdy/src/headers.rs", ByStrangers(&["spdy"])),
    (
        "structured-merge/src/apply/encode.rs",
        ByStrangers(&["managed-fields"]),
    ),
    (
        "structured-merge/src/apply/last_applied.rs",
        ByStrangers(&["annotations"]),
    ),
    (
        "structured-merge/src/apply/managers.rs",
        ByStrangers(&["managed-fields"]),
    ),
    (
        "structured-merge/src/apply/path.rs",
        ByStrangers(&["managed-fields"]),
    ),
    (
        "structured-merge/src/apply/track.rs",
        ByStrangers(&["managed-fields"]),
    ),
];

/// Checks that the table is complete and has no obsolete entries.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let targets = targets(files);
    let mut findings = Vec::new();
    let mut decoding = BTreeSet::new();
    for file in files.iter().filter(|file| decodes(file)) {
        let path = file.path.trim_start_matches("crates/");
        decoding.insert(path);
        if !TABLE.iter().any(|(listed, _)| *listed == path) {
            findings.push(Finding {
                file: file.path.clone(),
                text: "it decodes something: name the targets of the fuzzer that feed it, or say \
                       whose words it reads, in crates/workspace-tasks/src/tidy/decoders/mod.rs"
                    .to_owned(),
            });
        }
    }
    // A test of one file lacks the others.
    if targets.is_empty() {
        return findings;
    }
    for (path, source) in TABLE {
        let broken = |text: String| Finding {
            file: "crates/workspace-tasks/src/tidy/decoders/mod.rs".to_owned(),
            text,
        };
        if !decoding.contains(path) {
            findings.push(broken(format!("{path} decodes nothing: take it out")));
        }
        match source {
            ByOurs("") => {
                findings.push(broken(format!("{path}: say why nobody else says it")));
            }
            ByOurs(_) => {}
            ByStrangers(named) => {
                let missing = named.iter().filter(|name| !targets.contains(**name));
                findings.extend(
                    missing.map(|name| broken(format!("{path}: the fuzzer has no target {name}"))),
                );
            }
        }
    }
    findings
}

/// Whether a file of the program has a decoder, outside its tests.
fn decodes(file: &SourceFile) -> bool {
    let Some(rest) = file.path.strip_prefix("crates/") else {
        return false;
    };
    let Some((part, path)) = rest.split_once('/') else {
        return false;
    };
    let is_outside = AROUND.contains(&part) || part == IN_CONTAINERS;
    if is_outside || !path.starts_with("src/") {
        return false;
    }
    MARKS.iter().any(|mark| file.code.contains(mark))
}

/// The names of all targets that the fuzzer runs.
fn targets(files: &[SourceFile]) -> BTreeSet<&str> {
    let folder = "crates/fuzzing/src/targets/";
    let list = files
        .iter()
        .find(|file| file.path == format!("{folder}mod.rs"))
        .map_or("", |file| file.text.as_str());
    let mut names = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.starts_with(folder)) {
        let module = file.path.trim_start_matches(folder).trim_end_matches(".rs");
        for part in file.text.split("pub const ").skip(1) {
            let Some((name, rest)) = part.split_once(": Target = Target {") else {
                continue;
            };
            let is_run = list.contains(&format!("{module}::{name},"));
            let text = rest.split("name: \"").nth(1);
            names.extend(
                text.and_then(|text| text.split('"').next())
                    .filter(|_| is_run),
            );
        }
    }
    names
}

#[cfg(test)]
mod tests;
