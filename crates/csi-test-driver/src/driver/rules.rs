//! The requirements of the CSI specification for fields.

use json_tree::Value;

use super::{Stop, code, stop};

/// The access modes of a single node, by number.
const SINGLE_NODE: [i64; 4] = [1, 2, 6, 7];
const SUPPORTED: [i64; 5] = [1, 3, 5, 6, 7];
const FILE_SYSTEMS: [&str; 3] = ["", "ext4", "xfs"];
pub(crate) const SINGLE_WRITER: i64 = 6;
pub(crate) const SINGLE_NODE_MULTI_WRITER: i64 = 7;

/// A text field that must be present.
pub(crate) fn required<'a>(request: &'a Value, field: &str) -> Result<&'a str, Stop> {
    match request[field].as_str() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => stop(code::INVALID_ARGUMENT, format!("{field} is missing")),
    }
}

/// Checks the lengths: at most 128 bytes for a text that is not a path, and 4 KiB for a map.
pub(crate) fn lengths(request: &Value) -> Result<(), Stop> {
    let fields = request.as_object().into_iter().flatten();
    for (field, value) in fields {
        let (size, limit) = match value {
            Value::String(text) if field == "node_id" => (text.len(), 256),
            Value::String(text) if !field.ends_with("_path") => (text.len(), 128),
            Value::Object(map) if map.values().all(Value::is_string) => {
                let sizes = map
                    .iter()
                    .map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len());
                (sizes.sum(), 4096)
            }
            _ => continue,
        };
        if size > limit {
            return stop(code::INVALID_ARGUMENT, format!("{field} has {size} bytes"));
        }
    }
    Ok(())
}

/// Checks that a volume capability is complete and supported.
pub(crate) fn capability(capability: &Value) -> Result<&Value, Stop> {
    let (block, mount) = (&capability["block"], &capability["mount"]);
    if block.is_object() == mount.is_object() {
        return stop(code::INVALID_ARGUMENT, "no access type");
    }
    let mode = mode(capability);
    if !SUPPORTED.contains(&mode) {
        return stop(code::INVALID_ARGUMENT, format!("access mode {mode}"));
    }
    let file_system = mount["fs_type"].as_str().unwrap_or_default();
    if !FILE_SYSTEMS.contains(&file_system) {
        return stop(code::INVALID_ARGUMENT, format!("fs_type {file_system}"));
    }
    let flags = mount["mount_flags"].as_array().into_iter().flatten();
    let size = flags
        .map(|flag| flag.as_str().unwrap_or_default().len())
        .sum::<usize>();
    if size >= 4096 {
        return stop(
            code::INVALID_ARGUMENT,
            format!("mount_flags has {size} bytes"),
        );
    }
    Ok(capability)
}

/// The required volume capability of a request.
pub(crate) fn capability_of(request: &Value) -> Result<&Value, Stop> {
    capability(&request["volume_capability"])
}

/// The volume capabilities of a request, at least one.
pub(crate) fn capabilities_of(request: &Value) -> Result<&[Value], Stop> {
    let all = request["volume_capabilities"].as_array();
    let Some(all) = all.filter(|all| !all.is_empty()) else {
        return stop(code::INVALID_ARGUMENT, "volume_capabilities is missing");
    };
    for requested in all {
        capability(requested)?;
        if is_block(requested) != is_block(&all[0]) {
            return stop(code::INVALID_ARGUMENT, "a device and a file system at once");
        }
    }
    Ok(all)
}

pub(crate) fn is_block(capability: &Value) -> bool {
    capability["block"].is_object()
}

pub(crate) fn mode(capability: &Value) -> i64 {
    capability["access_mode"]["mode"].as_i64().unwrap_or(0)
}

pub(crate) fn is_multi_node(capability: &Value) -> bool {
    !SINGLE_NODE.contains(&mode(capability))
}

/// The minimum and the maximum size in bytes; zero for no limit.
pub(crate) fn range(request: &Value) -> Result<(i64, i64), Stop> {
    let range = &request["capacity_range"];
    let bytes = |field: &str| range[field].as_i64().unwrap_or(0);
    let (required, limit) = (bytes("required_bytes"), bytes("limit_bytes"));
    if required < 0 || limit < 0 || (range.is_object() && required == 0 && limit == 0) {
        return stop(code::INVALID_ARGUMENT, "capacity_range");
    }
    if limit != 0 && limit < required {
        return stop(code::INVALID_ARGUMENT, "capacity_range: limit_bytes");
    }
    Ok((required, limit))
}

/// One page of a list, and the token of the next page.
pub(crate) fn page(request: &Value, entries: Vec<Value>) -> Result<(Vec<Value>, String), Stop> {
    let most = request["max_entries"].as_i64().unwrap_or(0);
    let Ok(most) = usize::try_from(most) else {
        return stop(code::INVALID_ARGUMENT, "max_entries");
    };
    let start = match request["starting_token"].as_str() {
        None | Some("") => 0,
        Some(token) => match token.parse::<usize>() {
            Ok(start) if start <= entries.len() => start,
            _ => return stop(code::ABORTED, format!("starting_token {token}")),
        },
    };
    let end = match most {
        0 => entries.len(),
        most => entries.len().min(start + most),
    };
    let next = match end < entries.len() {
        true => end.to_string(),
        false => String::new(),
    };
    let page = entries.into_iter().take(end).skip(start);
    Ok((page.collect(), next))
}
