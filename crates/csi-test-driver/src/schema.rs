//! The messages of CSI 1.12 as JSON, by a table of their fields. Apart from the product's messages, so that
//! a wrong number there is noticed.
//!
//! Numbers, texts, maps and messages with their default are left out when they are written, and missing
//! after they are read. A message is there even if it is empty.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use json_tree::{Map, Value, json};
use object_model::protobuf::{Reader, Wire, Writer};

/// One message a line: its fields with number, name and type; `*` for a list.
const TABLE: &str = "
GetPluginInfoResponse: 1 name text, 2 vendor_version text, 3 manifest map
GetPluginCapabilitiesResponse: 1 capabilities* PluginCapability
PluginCapability: 1 service Type, 2 volume_expansion Type
Type: 1 type number
ProbeResponse: 1 ready Flag
Flag: 1 value flag
CapacityRange: 1 required_bytes number, 2 limit_bytes number
MountVolume: 1 fs_type text, 2 mount_flags* text, 3 volume_mount_group text
AccessMode: 1 mode number
VolumeCapability: 1 block Empty, 2 mount MountVolume, 3 access_mode AccessMode
Empty:
SnapshotSource: 1 snapshot_id text
VolumeSource: 1 volume_id text
VolumeContentSource: 1 snapshot SnapshotSource, 2 volume VolumeSource
Topology: 1 segments map
TopologyRequirement: 1 requisite* Topology, 2 preferred* Topology
CreateVolumeRequest: 1 name text, 2 capacity_range CapacityRange, 3 volume_capabilities* VolumeCapability, \
 4 parameters map, 5 secrets map, 6 volume_content_source VolumeContentSource, \
 7 accessibility_requirements TopologyRequirement, 8 mutable_parameters map
CreateVolumeResponse: 1 volume Volume
Volume: 1 capacity_bytes number, 2 volume_id text, 3 volume_context map, \
 4 content_source VolumeContentSource, 5 accessible_topology* Topology
DeleteVolumeRequest: 1 volume_id text, 2 secrets map
ControllerPublishVolumeRequest: 1 volume_id text, 2 node_id text, 3 volume_capability VolumeCapability, \
 4 readonly flag, 5 secrets map, 6 volume_context map
ControllerPublishVolumeResponse: 1 publish_context map
ControllerUnpublishVolumeRequest: 1 volume_id text, 2 node_id text, 3 secrets map
ValidateVolumeCapabilitiesRequest: 1 volume_id text, 2 volume_context map, \
 3 volume_capabilities* VolumeCapability, 4 parameters map, 5 secrets map, 6 mutable_parameters map
Confirmed: 1 volume_context map, 2 volume_capabilities* VolumeCapability, 3 parameters map, \
 4 mutable_parameters map
ValidateVolumeCapabilitiesResponse: 1 confirmed Confirmed, 2 message text
ListVolumesRequest: 1 max_entries number, 2 starting_token text
VolumeStatus: 1 published_node_ids* text, 2 volume_condition VolumeCondition
VolumeEntry: 1 volume Volume, 2 status VolumeStatus
ListVolumesResponse: 1 entries* VolumeEntry, 2 next_token text
ControllerGetVolumeRequest: 1 volume_id text
ControllerGetVolumeResponse: 1 volume Volume, 2 status VolumeStatus
ControllerModifyVolumeRequest: 1 volume_id text, 2 secrets map, 3 mutable_parameters map
GetCapacityRequest: 1 volume_capabilities* VolumeCapability, 2 parameters map, 3 accessible_topology Topology
Number: 1 value number
GetCapacityResponse: 1 available_capacity number, 2 maximum_volume_size Number, 3 minimum_volume_size Number
Rpc: 1 rpc Type
ControllerGetCapabilitiesResponse: 1 capabilities* Rpc
NodeGetCapabilitiesResponse: 1 capabilities* Rpc
CreateSnapshotRequest: 1 source_volume_id text, 2 name text, 3 secrets map, 4 parameters map
Timestamp: 1 seconds number, 2 nanos number
Snapshot: 1 size_bytes number, 2 snapshot_id text, 3 source_volume_id text, 4 creation_time Timestamp, \
 5 ready_to_use flag, 6 group_snapshot_id text
CreateSnapshotResponse: 1 snapshot Snapshot
DeleteSnapshotRequest: 1 snapshot_id text, 2 secrets map
ListSnapshotsRequest: 1 max_entries number, 2 starting_token text, 3 source_volume_id text, \
 4 snapshot_id text, 5 secrets map
SnapshotEntry: 1 snapshot Snapshot
ListSnapshotsResponse: 1 entries* SnapshotEntry, 2 next_token text
ControllerExpandVolumeRequest: 1 volume_id text, 2 capacity_range CapacityRange, 3 secrets map, \
 4 volume_capability VolumeCapability
ControllerExpandVolumeResponse: 1 capacity_bytes number, 2 node_expansion_required flag
NodeStageVolumeRequest: 1 volume_id text, 2 publish_context map, 3 staging_target_path text, \
 4 volume_capability VolumeCapability, 5 secrets map, 6 volume_context map
NodeUnstageVolumeRequest: 1 volume_id text, 2 staging_target_path text
NodePublishVolumeRequest: 1 volume_id text, 2 publish_context map, 3 staging_target_path text, \
 4 target_path text, 5 volume_capability VolumeCapability, 6 readonly flag, 7 secrets map, 8 volume_context map
NodeUnpublishVolumeRequest: 1 volume_id text, 2 target_path text
NodeGetVolumeStatsRequest: 1 volume_id text, 2 volume_path text, 3 staging_target_path text
VolumeUsage: 1 available number, 2 total number, 3 used number, 4 unit number
VolumeCondition: 1 abnormal flag, 2 message text
NodeGetVolumeStatsResponse: 1 usage* VolumeUsage, 2 volume_condition VolumeCondition
NodeGetInfoResponse: 1 node_id text, 2 max_volumes_per_node number, 3 accessible_topology Topology
NodeExpandVolumeRequest: 1 volume_id text, 2 volume_path text, 3 capacity_range CapacityRange, \
 4 staging_target_path text, 5 volume_capability VolumeCapability, 6 secrets map
NodeExpandVolumeResponse: 1 capacity_bytes number
";

struct Field {
    number: u32,
    name: &'static str,
    is_list: bool,
    of: &'static str,
}

type Table = BTreeMap<&'static str, Vec<Field>>;

/// The fields of a message; none for a message that is not in the table, which is empty.
fn fields(message: &str) -> &'static [Field] {
    static PARSED: OnceLock<Table> = OnceLock::new();
    let table = PARSED.get_or_init(|| TABLE.lines().filter_map(parsed).collect());
    table.get(message).map_or(&[], Vec::as_slice)
}

fn parsed(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let (message, fields) = line.split_once(':')?;
    let fields = fields.split(',').filter_map(|field| {
        let mut words = field.split_whitespace();
        let (number, name, of) = (words.next()?, words.next()?, words.next()?);
        Some(Field {
            number: number.parse().ok()?,
            name: name.trim_end_matches('*'),
            is_list: name.ends_with('*'),
            of,
        })
    });
    Some((message, fields.collect()))
}

/// The bytes of a message.
///
/// # Errors
/// The JSON has another form, or a field that the message lacks.
pub fn encode(message: &str, value: &Value) -> Result<Vec<u8>, String> {
    let fields = fields(message);
    let none = Map::new();
    let object = value.as_object().unwrap_or(&none);
    let is_known = |key: &&String| !fields.iter().any(|field| field.name == **key);
    if let Some(unknown) = object.keys().find(is_known) {
        return Err(format!("{message} has no field {unknown}"));
    }
    let mut out = Writer::default();
    for field in fields {
        match (&value[field.name], field.is_list) {
            (Value::Null, _) => {}
            (Value::Array(all), true) => {
                for one in all {
                    put(&mut out, field, one, true)?;
                }
            }
            (one, false) => put(&mut out, field, one, false)?,
            (_, true) => return Err(format!("{message}: {} is a list", field.name)),
        }
    }
    Ok(out.0)
}

fn put(out: &mut Writer, field: &Field, value: &Value, always: bool) -> Result<(), String> {
    let bytes = field.number << 3 | 2;
    match (field.of, value) {
        ("text", Value::String(text)) if always || !text.is_empty() => {
            out.bytes(bytes, text.as_bytes());
        }
        ("text", Value::String(_)) | ("flag", Value::Bool(false)) => {}
        ("number", Value::Number(number)) => match number.as_i64() {
            Some(0) => {}
            Some(number) => out.varint(field.number << 3, number.cast_unsigned()),
            None => return Err(format!("{}: {number}", field.name)),
        },
        ("flag", Value::Bool(true)) => out.varint(field.number << 3, 1),
        ("map", Value::Object(map)) => {
            for (key, value) in map {
                let value = value.as_str().unwrap_or_default();
                out.message(bytes, |out| {
                    out.bytes(1 << 3 | 2, key.as_bytes());
                    out.bytes(2 << 3 | 2, value.as_bytes());
                });
            }
        }
        (message, Value::Object(_)) => out.bytes(bytes, &encode(message, value)?),
        (of, _) => return Err(format!("{} is no {of}: {value}", field.name)),
    }
    Ok(())
}

/// A message as JSON. Unknown fields are skipped.
///
/// # Errors
/// The bytes are no such message.
pub fn decode(message: &str, bytes: &[u8]) -> Result<Value, String> {
    let fields = fields(message);
    let mut object = Map::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        let one = match field.of {
            "text" => json!(text(wire)?),
            "number" => json!(wire.varint()?.cast_signed()),
            "flag" => json!(wire.varint()? != 0),
            "map" => {
                let entries = object.entry(field.name).or_insert_with(|| json!({}));
                let (key, value) = entry(wire.bytes()?)?;
                entries[key] = json!(value);
                continue;
            }
            message => decode(message, wire.bytes()?)?,
        };
        if !field.is_list {
            object.insert(field.name.to_owned(), one);
        } else if let Some(all) = object
            .entry(field.name)
            .or_insert_with(|| json!([]))
            .as_array_mut()
        {
            all.push(one);
        }
    }
    Ok(Value::Object(object))
}

fn text(wire: Wire<'_>) -> Result<String, String> {
    let text = std::str::from_utf8(wire.bytes()?);
    Ok(text.map_err(|error| error.to_string())?.to_owned())
}

fn entry(bytes: &[u8]) -> Result<(String, String), String> {
    let (mut key, mut value) = (String::new(), String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = text(wire)?,
            2 => value = text(wire)?,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_after_it_was_written_and_read() {
        let message = json!({
            "name": "n", "capacity_range": {"required_bytes": 5}, "parameters": {"a": "b", "c": ""},
            "volume_capabilities": [{"block": {}, "access_mode": {"mode": 1}},
                {"mount": {"mount_flags": ["ro", ""]}}],
            "accessibility_requirements": {"preferred": [{"segments": {"z": "1"}}]}});
        let bytes = encode("CreateVolumeRequest", &message).unwrap();
        assert_eq!(decode("CreateVolumeRequest", &bytes).unwrap(), message);
        assert!(encode("CreateVolumeRequest", &json!({"nam": "n"})).is_err());
        assert!(encode("CreateVolumeRequest", &json!({"name": 5})).is_err());
        assert!(decode("CreateVolumeRequest", &[0x0a, 9]).is_err());
    }

    #[test]
    fn the_table_names_only_messages_that_it_has() {
        let lines: Vec<&str> = TABLE.lines().filter(|line| !line.is_empty()).collect();
        for line in &lines {
            let (message, rest) = line.split_once(':').unwrap();
            assert_eq!(
                rest.split(',').filter(|field| !field.is_empty()).count(),
                fields(message).len()
            );
            for field in fields(message) {
                let is_plain = ["text", "number", "flag", "map"].contains(&field.of);
                let is_message = lines
                    .iter()
                    .any(|line| line.starts_with(&format!("{}:", field.of)));
                assert!(is_plain || is_message, "{message}: {}", field.of);
            }
        }
    }
}
