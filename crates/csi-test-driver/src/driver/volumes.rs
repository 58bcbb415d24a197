//! The controller methods for volumes: create, copy, expand, modify, list and delete.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use json_tree::{Value, json};

use super::rules::{capabilities_of, capability, is_block, page, range, required};
use super::{Call, Done, Driver, Role, Stop, code, stop};
use crate::faults;
use crate::state::copy;

/// The unit of sizes, and the maximum size, in bytes.
const UNIT: i64 = 4096;
const SIZE_MAX: i64 = 1 << 40;
const SIZE_DEFAULT: i64 = 1 << 20;

/// The parameters of a class: `zoned: "true"` for volumes of one zone, `expansion: offline` for volumes that
/// cannot grow while they are attached, `limited: "true"` for volumes whose capacity is enforced, `faults`
/// for ordered faults, `ready-after` for the number of calls until a snapshot is ready.
const PARAMETERS: [&str; 5] = ["zoned", "expansion", "limited", "faults", "ready-after"];
const MUTABLE: [&str; 2] = ["iops", "tier"];

/// The id for a name; equal names have equal ids.
pub(crate) fn id_of(prefix: &str, name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!("{prefix}-{:016x}", hasher.finish())
}

fn check_keys(map: &Value, keys: &[&str]) -> Result<(), Stop> {
    let mut keys_given = map.as_object().into_iter().flatten();
    match keys_given.find(|(key, _)| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, _)) => stop(code::INVALID_ARGUMENT, format!("unknown parameter {key}")),
    }
}

impl Driver {
    pub(crate) fn volume(&self, id: &str) -> Result<Value, Stop> {
        match self.state.read("volumes", id)? {
            Some(volume) => Ok(volume),
            None => stop(code::NOT_FOUND, format!("no volume {id}")),
        }
    }

    pub(crate) fn create_volume(&self, call: &Call<'_>, request: &Value) -> Done {
        let name = required(request, "name")?;
        let capabilities = capabilities_of(request)?;
        let parameters = &request["parameters"];
        check_keys(parameters, &PARAMETERS)?;
        check_keys(&request["mutable_parameters"], &MUTABLE)?;
        let id = id_of("vol", name);
        let orders = parameters["faults"].as_str().unwrap_or_default();
        let Some(orders) = faults::parse(orders, &id) else {
            return stop(code::INVALID_ARGUMENT, format!("faults: {orders}"));
        };
        let (at_least, at_most) = range(request)?;
        let source = self.source(request)?;
        let requested = at_least.max(match at_least {
            0 => SIZE_DEFAULT.max(source.as_ref().map_or(0, |(_, size, _)| *size)),
            _ => UNIT,
        });
        let capacity = requested.saturating_add(UNIT - 1) / UNIT * UNIT;
        if let Some(volume) = self.state.read("volumes", &id)? {
            let existing_capacity = volume["capacity"].as_i64().unwrap_or(0);
            let fits =
                existing_capacity >= at_least && (at_most == 0 || existing_capacity <= at_most);
            let same = volume["capabilities"] == json!(capabilities)
                && volume["parameters"] == request["parameters"]
                && volume["source"] == request["volume_content_source"];
            return match fits && same {
                true => Ok(json!({"volume": self.response_form(&volume)})),
                false => stop(code::ALREADY_EXISTS, format!("{name} with other arguments")),
            };
        }
        if capacity > SIZE_MAX || (at_most != 0 && capacity > at_most) {
            return stop(code::OUT_OF_RANGE, format!("no volume of {capacity} bytes"));
        }
        let block = is_block(&capabilities[0]);
        if let Some((_, size, of_block)) = &source {
            if *size > capacity {
                return stop(code::OUT_OF_RANGE, "smaller than the source");
            }
            if *of_block != block {
                return stop(code::INVALID_ARGUMENT, "a source of another mode");
            }
        }
        let zone = self.zone_for(request, capacity)?;
        // The data is removed first, so that a volume with a record is complete.
        self.state.remove_data(&id)?;
        let data = self.state.data(&id);
        match &source {
            Some((from, ..)) => copy(&self.state.data(from), &data)?,
            None if block => drop(File::create(&data)?),
            None => {
                fs::create_dir(&data)?;
                fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
            }
        }
        if block {
            grow(&data, capacity)?;
        }
        call.middle()?;
        let volume = json!({
            "id": id, "name": name, "capacity": capacity, "capabilities": capabilities, "block": block,
            "parameters": request["parameters"], "mutable": request["mutable_parameters"],
            "source": request["volume_content_source"], "zone": zone, "published": {}});
        for (number, order) in orders.iter().enumerate() {
            let name = format!("{id}-{number}");
            self.state.write("faults", &name, order)?;
        }
        self.state.write("volumes", &id, &volume)?;
        Ok(json!({"volume": self.response_form(&volume)}))
    }

    /// The source of a new volume: the id of its data, its size, and whether it is a block device.
    fn source(&self, request: &Value) -> Result<Option<(String, i64, bool)>, Stop> {
        let source = &request["volume_content_source"];
        if source.is_null() {
            return Ok(None);
        }
        let (kind, id) = match (&source["snapshot"], &source["volume"]) {
            (Value::Object(_), _) => ("snapshots", required(&source["snapshot"], "snapshot_id")?),
            (_, Value::Object(_)) => ("volumes", required(&source["volume"], "volume_id")?),
            _ => return stop(code::INVALID_ARGUMENT, "volume_content_source is empty"),
        };
        let Some(record) = self.state.read(kind, id)? else {
            return stop(code::NOT_FOUND, format!("no source {id}"));
        };
        let size = record["capacity"].as_i64().unwrap_or(0);
        Ok(Some((id.to_owned(), size, record["block"] == true)))
    }

    /// The zone of a new volume, with enough free space; null for a volume without a zone.
    fn zone_for(&self, request: &Value, capacity: i64) -> Done {
        if request["parameters"]["zoned"] != "true" {
            return match self.free("")? >= capacity {
                true => Ok(Value::Null),
                false => stop(code::RESOURCE_EXHAUSTED, "no room"),
            };
        }
        let key = self.zone_key();
        let requested = &request["accessibility_requirements"];
        let lists = [&requested["preferred"], &requested["requisite"]];
        let topologies = lists.iter().filter_map(|list| list.as_array()).flatten();
        let mut zones: Vec<String> = topologies
            .filter_map(|topology| topology["segments"][&key].as_str())
            .map(str::to_owned)
            .collect();
        if requested.is_null() {
            let nodes = self.state.all("nodes")?.into_iter();
            zones = nodes
                .filter_map(|(_, node)| node["zone"].as_str().map(str::to_owned))
                .collect();
        }
        for zone in zones {
            if self.free(&zone)? >= capacity {
                return Ok(json!(zone));
            }
        }
        stop(code::RESOURCE_EXHAUSTED, "no place has room")
    }

    /// The free bytes of a zone.
    fn free(&self, zone: &str) -> Result<i64, Stop> {
        let Some(limit) = self.state.capacity(zone) else {
            return Ok(SIZE_MAX);
        };
        let volumes = self.state.all("volumes")?.into_iter();
        let used = volumes
            .filter(|(_, volume)| volume["zone"].as_str().unwrap_or_default() == zone)
            .map(|(_, volume)| volume["capacity"].as_i64().unwrap_or(0));
        Ok((limit - used.sum::<i64>()).max(0))
    }

    pub(crate) fn free_capacity(&self, request: &Value) -> Done {
        let capabilities = request["volume_capabilities"].as_array();
        for requested in capabilities.into_iter().flatten() {
            capability(requested)?;
        }
        let segments = &request["accessible_topology"]["segments"];
        let zoned = request["parameters"]["zoned"] == "true";
        let zone = match (zoned, segments[&self.zone_key()].as_str()) {
            (true, Some(zone)) => zone,
            _ => "",
        };
        Ok(json!({"available_capacity": self.free(zone)?, "maximum_volume_size": SIZE_MAX}))
    }

    /// A volume in the form of responses.
    pub(crate) fn response_form(&self, volume: &Value) -> Value {
        let mut response = json!({"capacity_bytes": volume["capacity"], "volume_id": volume["id"],
            "volume_context": {"name": volume["name"]}});
        if let Some(zone) = volume["zone"].as_str() {
            response["accessible_topology"] = json!([{"segments": {self.zone_key(): zone}}]);
        }
        if volume["source"].is_object() {
            response["content_source"] = volume["source"].clone();
        }
        response
    }

    fn with_status(&self, volume: &Value) -> Value {
        let nodes = volume["published"].as_object().into_iter().flatten();
        let nodes: Vec<&String> = nodes.map(|(node, _)| node).collect();
        json!({"volume": self.response_form(volume), "status": {"published_node_ids": nodes}})
    }

    pub(crate) fn delete_volume(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let Some(volume) = self.state.read("volumes", id)? else {
            return Ok(json!({}));
        };
        if volume["published"]
            .as_object()
            .is_some_and(|all| !all.is_empty())
        {
            return stop(code::FAILED_PRECONDITION, format!("{id} is attached"));
        }
        self.state.remove_data(id)?;
        call.middle()?;
        self.state.remove("volumes", id)?;
        Ok(json!({}))
    }

    pub(crate) fn validate(&self, request: &Value) -> Done {
        let volume = self.volume(required(request, "volume_id")?)?;
        let all = request["volume_capabilities"].as_array();
        let Some(all) = all.filter(|all| !all.is_empty()) else {
            return stop(code::INVALID_ARGUMENT, "volume_capabilities is missing");
        };
        for requested in all {
            let fits =
                capability(requested).is_ok() && json!(is_block(requested)) == volume["block"];
            if !fits {
                return Ok(json!({"message": "not supported"}));
            }
        }
        Ok(
            json!({"confirmed": {"volume_capabilities": all, "volume_context": request["volume_context"],
            "parameters": request["parameters"]}}),
        )
    }

    pub(crate) fn list_volumes(&self, request: &Value) -> Done {
        let volumes = self.state.all("volumes")?;
        let entries = volumes.iter().map(|(_, volume)| self.with_status(volume));
        let (entries, next) = page(request, entries.collect())?;
        Ok(json!({"entries": entries, "next_token": next}))
    }

    pub(crate) fn get_volume(&self, request: &Value) -> Done {
        let volume = self.volume(required(request, "volume_id")?)?;
        Ok(self.with_status(&volume))
    }

    pub(crate) fn expand_volume(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let mut volume = self.volume(id)?;
        if !request["capacity_range"].is_object() {
            return stop(code::INVALID_ARGUMENT, "capacity_range is missing");
        }
        let (at_least, at_most) = range(request)?;
        let current = volume["capacity"].as_i64().unwrap_or(0);
        if request["volume_capability"].is_object() {
            let capability = capability(&request["volume_capability"])?;
            if json!(is_block(capability)) != volume["block"] {
                return stop(code::INVALID_ARGUMENT, "a volume of another mode");
            }
        }
        let capacity = at_least.max(current).saturating_add(UNIT - 1) / UNIT * UNIT;
        let zone = volume["zone"].as_str().unwrap_or_default().to_owned();
        let is_full = capacity - current > self.free(&zone)?;
        if capacity > SIZE_MAX || is_full || (at_most != 0 && capacity > at_most) {
            return stop(code::OUT_OF_RANGE, format!("no volume of {capacity} bytes"));
        }
        let is_attached = volume["published"]
            .as_object()
            .is_some_and(|all| !all.is_empty());
        if capacity > current && is_attached && volume["parameters"]["expansion"] == "offline" {
            return stop(code::FAILED_PRECONDITION, format!("{id} is attached"));
        }
        if volume["block"] == true {
            grow(&self.state.data(id), capacity)?;
        }
        call.middle()?;
        volume["capacity"] = json!(capacity);
        self.state.write("volumes", id, &volume)?;
        Ok(json!({"capacity_bytes": capacity, "node_expansion_required": true}))
    }

    pub(crate) fn modify_volume(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let mut volume = self.volume(id)?;
        let requested = &request["mutable_parameters"];
        check_keys(requested, &MUTABLE)?;
        call.middle()?;
        let parameters = requested.as_object().into_iter().flatten();
        for (key, value) in parameters {
            volume["mutable"][key] = value.clone();
        }
        self.state.write("volumes", id, &volume)?;
        Ok(json!({}))
    }

    pub(crate) fn node_id(&self) -> &str {
        match &self.role {
            Role::Node { id, .. } => id,
            Role::Controller => "",
        }
    }
}

/// Sets the size of the file of a block device.
fn grow(data: &std::path::Path, capacity: i64) -> Result<(), Stop> {
    let file = File::options().write(true).open(data)?;
    let size = u64::try_from(capacity).unwrap_or(0);
    file.set_len(size.max(file.metadata()?.len()))?;
    Ok(())
}
