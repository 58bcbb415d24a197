//! `mainstay image`: management of images independent of pods' pulls.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use command_output::columns;
use image_store::{ImageStore, PullOptions, RegistriesConfig};

use crate::settings::DataDirectory;

/// Arguments of `mainstay image`.
#[derive(clap::Args, Debug)]
pub struct ImageArguments {
    #[command(flatten)]
    data: DataDirectory,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Import images from files: OCI layout, OCI archive, or output of `docker save`
    Import {
        /// Files, or directories with an OCI layout
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the images; unused images that are not pinned are removed when the disk is full
    Ls,
    /// Remove images by name
    Rm {
        /// Names
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
    /// Pull an image from its registry or a mirror
    Pull {
        /// Name
        #[arg(value_name = "REF")]
        reference: String,
        /// Registry mirrors and credentials [default: registries.yaml in the data directory]
        #[arg(long, value_name = "FILE", env = "MAINSTAY_REGISTRIES")]
        registries: Option<PathBuf>,
    },
}

/// Runs the command on the images of the data directory, whether or not a server uses it.
pub async fn run(arguments: ImageArguments) -> Result<()> {
    let data = arguments.data.path()?;
    let store = open(&data)?;
    match arguments.action {
        Action::Import { files } => {
            for file in files {
                for name in store.import(&file)? {
                    command_output::output::print_line(&format!("imported {name}"));
                }
            }
        }
        Action::Ls => command_output::output::print_text(&table(&store)?),
        Action::Rm { references } => {
            for reference in references {
                store.remove(&reference)?;
                command_output::output::print_line(&format!("removed {reference}"));
            }
        }
        Action::Pull {
            reference,
            registries,
        } => {
            let file = registries.unwrap_or_else(|| data.join("registries.yaml"));
            let registries = RegistriesConfig::read(&file)?;
            let options = PullOptions {
                registries,
                ..PullOptions::default()
            };
            let image = store.pull(&reference, &options).await?;
            command_output::output::print_line(&format!(
                "pulled {} ({})",
                image.references.join(", "),
                image.digest
            ));
        }
    }
    Ok(())
}

/// The image store of a data directory.
pub fn open(data: &std::path::Path) -> Result<ImageStore> {
    let path = data.join("images");
    ImageStore::open(&path).with_context(|| format!("open the images in {}", path.display()))
}

fn table(store: &ImageStore) -> Result<String> {
    let mut rows = vec![["NAME", "ID", "PINNED", "SIZE"].map(str::to_owned)];
    for image in store.list()? {
        let id = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect::<String>();
        for reference in image.references {
            let pinned = if image.pinned { "yes" } else { "no" };
            rows.push([reference, id.clone(), pinned.to_owned(), size(image.size)]);
        }
    }
    Ok(columns::table(&rows, 3))
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
