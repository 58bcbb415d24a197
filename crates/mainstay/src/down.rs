//! `mainstay down`: stops the server of a data directory, cleans up after a killed one, and deletes
//! data if requested, but only in directories with an instance's marker.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result, bail};
use command_output::output::{print_line, print_text};
use data_directory::{Marker, left_pods, process};
use instance_removal::DeletionExtent;

use crate::settings::DataDirectory;

/// Arguments of `mainstay down`.
#[derive(clap::Args, Debug)]
pub struct DownArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Also delete the cluster: all objects and the data of all volumes. Images, registries.yaml, seccomp
    /// profiles and the server token are kept
    #[arg(long, group = "deletion")]
    volumes: bool,
    /// Also delete all files of mainstay in the data directory, the server token too
    #[arg(long, group = "deletion")]
    all: bool,
    /// Do not ask before deleting
    #[arg(long, requires = "deletion")]
    yes: bool,
}

impl DownArguments {
    fn extent(&self) -> Option<DeletionExtent> {
        match (self.volumes, self.all) {
            (_, true) => Some(DeletionExtent::All),
            (true, false) => Some(DeletionExtent::Cluster),
            (false, false) => None,
        }
    }
}

/// Stops the server of a data directory and waits for its end; deletes the data if requested.
pub async fn run(arguments: &DownArguments) -> Result<()> {
    let data = arguments.data.path()?;
    // Names in the kernel and links in files contain the absolute path of the directory.
    let data = std::path::absolute(&data).with_context(|| format!("use {}", data.display()))?;
    let marker = Marker::read(&data).ok().flatten();
    let deletion = match (arguments.extent(), &marker) {
        (None, _) => None,
        (Some(extent), Some(marker)) => Some((extent, marker.clone())),
        (Some(_), None) => bail!("{}", not_marked(&data)),
    };
    if let Some((extent, _)) = &deletion
        && !arguments.yes
        && !confirmed(&data, *extent)?
    {
        bail!("nothing was stopped or deleted");
    }
    let served = match process::serving(&data) {
        Some(server) => {
            instance_removal::stop(server, &data)?;
            true
        }
        None => false,
    };
    let left = left_pods::on_all_nodes(&data);
    if !left.is_empty() {
        print_line(&format!(
            "no server runs on {}; ending {} of a killed server: {}",
            data.display(),
            left_pods::counted(left.len()),
            left_pods::listed(&left)
        ));
        instance_removal::end_leftovers(&data, marker.as_ref(), &left).await?;
        print_line("ended");
    } else if !served && deletion.is_none() {
        bail!("no server runs on {}", data.display());
    }
    if let Some((extent, marker)) = deletion {
        // A killed server without pods has left its network, and a server with a pool has left its mount.
        instance_removal::end_leftovers(&data, Some(&marker), &[]).await?;
        instance_removal::delete(&data, extent, marker)?;
    }
    Ok(())
}

fn not_marked(data: &Path) -> String {
    let displayed = data.display();
    let of_root = match nix::unistd::geteuid().is_root() {
        true => "",
        false => ". What root has started, root stops: put sudo in front",
    };
    if !data.exists() {
        return format!("there is no directory {displayed}{of_root}");
    }
    format!(
        "{displayed} is not marked as a data directory of mainstay (it has no readable file named \
         `{}`): nothing was stopped or deleted. One of mainstay 0.1.0 is marked by the next \
         `mainstay up` on it{of_root}",
        data_directory::MARKER_FILE
    )
}

fn confirmed(data: &Path, extent: DeletionExtent) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("--volumes and --all delete data: add --yes if there is no terminal");
    }
    let displayed = data.display();
    let extent_text = match extent {
        DeletionExtent::Cluster => format!(
            "the cluster in {displayed}: all objects, and the data of {} volumes",
            instance_removal::volume_count(data)
        ),
        DeletionExtent::All => format!(
            "{displayed}: all objects, the data of {} volumes, all images, registries.yaml and the server token",
            instance_removal::volume_count(data)
        ),
    };
    print_text(&format!("Delete {extent_text}? Type yes: "));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .context("read the answer")?;
    Ok(line.trim() == "yes")
}
