//! Starts, restarts and stops the sources of the configuration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::{CONFIG_MAX_BYTES, Config, Source};
use crate::connection::Times;
use crate::{follow, report};

/// How often the configuration is looked at, and how often a signal is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);

/// The sources that run.
#[derive(Debug)]
pub struct Supervisor {
    config: PathBuf,
    directory: PathBuf,
    times: Times,
    wanted: BTreeMap<String, Source>,
    running: BTreeMap<String, Running>,
    /// Inode and time of the last change of the configuration that was read.
    read: Option<(u64, i64, i64)>,
    /// Whether it was said that the configuration is missing.
    is_missing_said: bool,
}

#[derive(Debug)]
struct Running {
    source: Source,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Supervisor {
    /// Returns one that has started nothing yet.
    ///
    /// # Errors
    /// [`io::Error`] if the directory does not exist and cannot be created.
    pub fn new(config: &Path, directory: &Path, times: Times) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            config: config.to_owned(),
            directory: directory.to_owned(),
            times,
            wanted: BTreeMap::new(),
            running: BTreeMap::new(),
            read: None,
            is_missing_said: false,
        })
    }

    /// Runs until a signal arrives. The threads end with the process: their files are replaced by
    /// renames, so none is torn.
    pub fn run(&mut self, is_over: &AtomicBool) {
        let mut looked: Option<Instant> = None;
        while !is_over.load(Ordering::Relaxed) {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                self.look();
            }
            thread::sleep(STEP);
        }
    }

    /// Reads the configuration if it changed, and starts and stops sources.
    fn look(&mut self) {
        match stamp(&self.config) {
            Ok(stamp) if self.read != Some(stamp) => {
                self.read = Some(stamp);
                self.is_missing_said = false;
                self.reload();
            }
            Ok(_) => {}
            Err(err) => {
                self.read = None;
                if !self.is_missing_said {
                    self.is_missing_said = true;
                    let path = self.config.display();
                    log::warn!("{path}: {err}; waiting for the agent to write it");
                }
            }
        }
        self.stop_others();
        self.start_wanted();
    }

    fn reload(&mut self) {
        let path = self.config.display();
        let read = read(&self.config).map_err(|err| err.to_string());
        let parsed = read.and_then(|text| Config::parse(&text).map_err(|err| err.to_string()));
        match parsed {
            Ok(config) => {
                for complaint in &config.ignored {
                    log::warn!("{path}: {complaint}");
                }
                log::info!("{path}: {} sources", config.sources.len());
                let named = config
                    .sources
                    .into_iter()
                    .map(|each| (each.name.clone(), each));
                self.wanted = named.collect();
                // Files of sources that an earlier process followed.
                self.remove_others();
            }
            // The sources go on as before.
            Err(err) => log::error!("{path}: {err}"),
        }
    }

    fn stop_others(&mut self) {
        for (name, running) in &self.running {
            if self.wanted.get(name) != Some(&running.source) {
                running.stop.store(true, Ordering::Relaxed);
            }
        }
        let ended: Vec<String> = self
            .running
            .iter()
            .filter(|(_, running)| running.thread.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            let Some(running) = self.running.remove(&name) else {
                continue;
            };
            if running.thread.join().is_err() {
                log::error!("{name}: the thread panicked; starting it again");
            }
            if !self.wanted.contains_key(&name) {
                log::info!("{name}: removed from the configuration");
                report::remove(&self.directory, &name);
            }
        }
    }

    /// Starts what does not run. A source that changed waits for the end of its old thread.
    fn start_wanted(&mut self) {
        for (name, source) in &self.wanted {
            if self.running.contains_key(name) {
                continue;
            }
            let stop = Arc::new(AtomicBool::new(false));
            let (directory, times) = (self.directory.clone(), self.times);
            let (given, flag) = (source.clone(), Arc::clone(&stop));
            let builder = thread::Builder::new().name(name.chars().take(15).collect());
            match builder.spawn(move || follow::run(&given, &directory, times, &flag)) {
                Ok(thread) => {
                    log::info!("{name}: following {}", source.engine.kind());
                    let source = source.clone();
                    let running = Running {
                        source,
                        stop,
                        thread,
                    };
                    self.running.insert(name.clone(), running);
                }
                // The next look tries again.
                Err(err) => log::error!("{name}: {err}"),
            }
        }
    }

    /// Removes files of sources that are neither wanted nor running, and temporary ones.
    fn remove_others(&self) {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let Ok(file) = entry.file_name().into_string() else {
                continue;
            };
            let temporary = file
                .strip_prefix('.')
                .and_then(|file| file.strip_suffix(".new"));
            let name = temporary.unwrap_or(&file);
            let name = name.strip_suffix(".status").unwrap_or(name);
            let is_ours = !self.wanted.contains_key(name) || temporary.is_some();
            if is_ours
                && !self.running.contains_key(name)
                && let Err(err) = fs::remove_file(entry.path())
            {
                log::warn!("{}: {err}", entry.path().display());
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<(u64, i64, i64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(CONFIG_MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > CONFIG_MAX_BYTES {
        true => Err(io::Error::other("the file is too large")),
        false => Ok(bytes),
    }
}
