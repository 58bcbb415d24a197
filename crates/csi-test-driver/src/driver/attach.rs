//! The controller methods that attach volumes to nodes.

use json_tree::{Value, json};

use super::rules::{capability_of, is_block, is_multi_node, required};
use super::{Call, Done, Driver, code, stop};

impl Driver {
    pub(crate) fn attach(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let node = required(request, "node_id")?;
        let capability = capability_of(request)?;
        let mut volume = self.volume(id)?;
        let Some(target) = self.state.read("nodes", node)? else {
            return stop(code::NOT_FOUND, format!("no node {node}"));
        };
        if json!(is_block(capability)) != volume["block"] {
            return stop(code::INVALID_ARGUMENT, "a volume of another mode");
        }
        let requested_use =
            json!({"capability": capability, "readonly": request["readonly"] == true});
        let response = json!({"publish_context": {"device": format!("{node}/{id}")}});
        let published = volume["published"].as_object().cloned().unwrap_or_default();
        if let Some(published_use) = published.get(node) {
            return match *published_use == requested_use {
                true => Ok(response),
                false => stop(
                    code::ALREADY_EXISTS,
                    format!("{id} is attached in another way"),
                ),
            };
        }
        let mut publications = published.iter();
        let is_occupied =
            publications.find(|(_, publication)| !is_multi_node(&publication["capability"]));
        let is_occupied = is_occupied.or_else(|| match is_multi_node(capability) {
            true => None,
            false => published.iter().next(),
        });
        if let Some((node, _)) = is_occupied {
            return stop(
                code::FAILED_PRECONDITION,
                format!("{id} is attached to {node}"),
            );
        }
        if let Some(zone) = volume["zone"].as_str()
            && target["zone"] != zone
        {
            return stop(
                code::INVALID_ARGUMENT,
                format!("{id} is in {zone}, {node} is not"),
            );
        }
        let most = target["volumes_max"].as_u64().unwrap_or(0);
        let all = self.state.all("volumes")?;
        let on_node = all
            .iter()
            .filter(|(_, volume)| volume["published"][node].is_object());
        if most > 0 && on_node.count() as u64 >= most {
            return stop(
                code::RESOURCE_EXHAUSTED,
                format!("{node} has {most} volumes"),
            );
        }
        call.middle()?;
        self.state.event("attached", id, node, "")?;
        volume["published"][node] = requested_use;
        self.state.write("volumes", id, &volume)?;
        Ok(response)
    }

    pub(crate) fn detach(&self, call: &Call<'_>, request: &Value) -> Done {
        let id = required(request, "volume_id")?;
        let mut volume = match self.state.read("volumes", id)? {
            Some(volume) => volume,
            // A volume that does not exist counts as detached.
            None => return Ok(json!({})),
        };
        let node = request["node_id"].as_str().unwrap_or_default().to_owned();
        let Some(published) = volume["published"].as_object_mut() else {
            return Ok(json!({}));
        };
        call.middle()?;
        let detached: Vec<String> = published
            .keys()
            .filter(|id| node.is_empty() || **id == node)
            .cloned()
            .collect();
        published.retain(|id, _| !detached.contains(id));
        for node in &detached {
            // A lost node leaves the volume staged.
            let uses = self.state.read("uses", &format!("{node}@{id}"))?;
            let is_staged = uses.is_some_and(|uses| uses["staged"].is_object());
            let how = if is_staged { "staged" } else { "" };
            self.state.event("detached", id, node, how)?;
        }
        self.state.write("volumes", id, &volume)?;
        Ok(json!({}))
    }
}
