//! The kernel's interface for images: `/sys/bus/rbd`, without a program.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use host_kernel::{TimedCallError, call_with_timeout_blocking};
use nix::libc::EBUSY;

use crate::image::{Attributes, Device, Image};

/// The interface of this machine.
const BUS: &str = "/sys/bus/rbd";

/// Time limit of an unmapping.
const UNMAP_MAX: Duration = Duration::from_secs(10);

/// The kernel's interface for mapped images, `/sys/bus/rbd`.
#[derive(Clone, Debug)]
pub struct Bus(PathBuf);

impl Bus {
    /// The interface, with the kernel's module loaded.
    ///
    /// # Errors
    /// The kernel has no such interface.
    pub fn open() -> Result<Self, NoBus> {
        let bus = Self(BUS.into());
        if !bus.0.exists() {
            // Its failure shows in the directory.
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("rbd").stdin(Stdio::null());
            modprobe.stdout(Stdio::null()).stderr(Stdio::null());
            modprobe.status().ok();
        }
        match bus.0.exists() {
            true => Ok(bus),
            false => Err(NoBus),
        }
    }

    /// The interface if the module is loaded: without it nothing is mapped.
    pub fn present() -> Option<Self> {
        let bus = Self(BUS.into());
        bus.0.exists().then_some(bus)
    }

    /// The device of an image.
    ///
    /// # Errors
    /// The interface cannot be read.
    pub fn find_device(&self, image: &Image) -> io::Result<Option<Device>> {
        let devices = self.devices()?;
        Ok(devices.into_iter().find(|device| device.image.is(image)))
    }

    fn devices(&self) -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(self.0.join("devices"))? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
            let Some(id) = id else {
                continue;
            };
            // A device that is being unmapped may lack attributes, and is left out.
            devices.extend(device(id, &entry.path()).unwrap_or_default());
        }
        Ok(devices)
    }

    /// Maps an image by its line.
    ///
    /// # Errors
    /// Of the kernel, or of the cluster.
    pub(crate) fn add(&self, line: &str) -> io::Result<()> {
        self.write("add", line)
    }

    /// Unmaps the device of an image, if the image has a device.
    ///
    /// # Errors
    /// See [`UnmapError`].
    pub fn unmap(&self, image: &Image) -> Result<(), UnmapError> {
        let Some(device) = self.find_device(image)? else {
            return Ok(());
        };
        let (bus, id) = (self.clone(), device.id);
        let call = move || bus.remove(id);
        let removed = call_with_timeout_blocking(format!("unmap {id}"), UNMAP_MAX, call);
        let (image, path) = (image.full_name(), device_path(&device));
        match removed {
            Ok(Ok(())) => Ok(()),
            // The device was unmapped meanwhile.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(Err(error)) if error.raw_os_error() == Some(EBUSY) => {
                Err(UnmapError::IsOpen { image, path })
            }
            Err(TimedCallError::TimedOut) => Err(UnmapError::NoResponse { image, path }),
            Ok(Err(source)) | Err(TimedCallError::Failed(source)) => Err(UnmapError::Refused {
                image,
                path,
                source,
            }),
        }
    }

    /// The size of a device in bytes, as the kernel knows it now.
    ///
    /// # Errors
    /// The device does not exist any more.
    pub fn size(&self, device: &Device) -> io::Result<u64> {
        let text = fs::read_to_string(self.0.join(format!("devices/{}/size", device.id)))?;
        let size = text.trim().parse();
        size.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        self.write("remove", &id.to_string())
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        if text.len() > LINE_BYTES_MAX {
            // The kernel would use only the first part of the text.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the names of monitors, pool and image have {} bytes, and the kernel takes \
                     {LINE_BYTES_MAX}",
                    text.len()
                ),
            ));
        }
        let single = self.0.join(format!("{name}_single_major"));
        let path = match single.exists() {
            true => single,
            false => self.0.join(name),
        };
        let mut file = OpenOptions::new().write(true).open(path)?;
        // The kernel reads one write as one line, so an incomplete write is not continued.
        match file.write(text.as_bytes())? {
            length if length == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// The kernel has no interface for images.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel of this node has no block devices of Ceph: its module \"rbd\" is missing or cannot be \
     loaded"
)]
pub struct NoBus;

/// The reason why an image stays mapped.
#[derive(Debug, thiserror::Error)]
pub enum UnmapError {
    /// A process has the device open. udev opens new devices for a moment.
    #[error("unmap {image}, {}: {}", path.display(), io::Error::from_raw_os_error(EBUSY))]
    IsOpen { image: String, path: PathBuf },
    #[error("unmap {image}, {}: the cluster does not answer", path.display())]
    NoResponse { image: String, path: PathBuf },
    #[error("unmap {image}, {}: {source}", path.display())]
    Refused {
        image: String,
        path: PathBuf,
        source: io::Error,
    },
    /// The devices, or the users of the image, cannot be read.
    #[error(transparent)]
    Unknown(#[from] io::Error),
}

impl From<UnmapError> for io::Error {
    fn from(error: UnmapError) -> Self {
        let kind = match &error {
            UnmapError::IsOpen { .. } | UnmapError::NoResponse { .. } => {
                io::ErrorKind::ResourceBusy
            }
            UnmapError::Refused { source, .. } | UnmapError::Unknown(source) => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Most bytes of a line: less than a page.
const LINE_BYTES_MAX: usize = 4095;

/// The path of a device.
pub fn device_path(device: &Device) -> PathBuf {
    format!("/dev/rbd{}", device.id).into()
}

fn device(id: u32, at: &Path) -> io::Result<Option<Device>> {
    let read = |name: &str| fs::read_to_string(at.join(name));
    let attributes = Attributes {
        config: &read("config_info")?,
        pool: &read("pool")?,
        name: &read("name")?,
        snapshot: &read("current_snap")?,
        client: &read("client_addr")?,
    };
    Ok(Device::from_attributes(id, attributes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_image_is_found_and_half_a_device_is_none() {
        let temp = tempfile::tempdir().unwrap();
        let bus = Bus(temp.path().to_owned());
        let devices = temp.path().join("devices");
        for id in ["0", "1", "x"] {
            fs::create_dir_all(devices.join(id)).unwrap();
        }
        for (name, text) in [
            (
                "config_info",
                "10.0.0.1:6789 name=kube,secret=<hidden> kube foo -\n",
            ),
            ("pool", "kube\n"),
            ("name", "foo\n"),
            ("current_snap", "-\n"),
            ("client_addr", "10.0.2.15:0/77\n"),
        ] {
            fs::write(devices.join("1").join(name), text).unwrap();
        }
        let image = |name: &str| Image {
            monitors: vec!["10.0.0.1:6789".to_owned()],
            pool: "kube".to_owned(),
            name: name.to_owned(),
        };
        let device = bus.find_device(&image("foo")).unwrap().unwrap();
        assert_eq!(device_path(&device), Path::new("/dev/rbd1"));
        assert_eq!(bus.find_device(&image("bar")).unwrap(), None);
        // The interface of a kernel whose devices do not share one major number.
        for name in ["add", "remove"] {
            fs::write(temp.path().join(name), "").unwrap();
        }
        bus.add("a line").unwrap();
        // findings-2 I1
        let refused = bus.add(&"m".repeat(4096)).unwrap_err();
        assert!(refused.to_string().contains("4096 bytes"), "{refused}");
        bus.remove(12).unwrap();
        bus.unmap(&image("bar")).unwrap();
        let written = |name: &str| fs::read_to_string(temp.path().join(name)).unwrap();
        assert_eq!(
            (written("add"), written("remove")),
            ("a line".into(), "12".into())
        );
    }
}
