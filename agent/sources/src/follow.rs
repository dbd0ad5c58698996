//! The loop of a source: tries the servers in turn, with growing delays after failures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::{Engine, Source};
use crate::connection::Times;
use crate::credentials::Vigil;
use crate::dns::Resolver;
use crate::error::{Ended, Never, Step};
use crate::etcd::Etcd;
use crate::kubernetes::Kubernetes;
use crate::report::Report;

/// First and longest delay after all servers failed.
const DELAY_MIN: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(30);

/// Minimum time from one watch to the next: a server or a proxy may end them at once.
pub(crate) const WATCH_MIN: Duration = Duration::from_secs(1);

/// One engine, with what it remembers between attempts.
pub(crate) trait Follow {
    /// Number of servers.
    fn servers(&self) -> usize;

    /// Follows one server until that ends. `vigil` watches the files that are read.
    ///
    /// # Errors
    /// Always: why it ended.
    fn attempt(&mut self, server: usize, report: &mut Report, vigil: &mut Vigil) -> Step<Never>;
}

/// Follows a source until `stop` is set.
pub fn run(source: &Source, directory: &Path, times: Times, stop: &Arc<AtomicBool>) {
    let mut report = Report::open(directory, &source.name, source.engine.kind(), source.max);
    let mut engine: Box<dyn Follow> = match &source.engine {
        Engine::Kubernetes(config) => Box::new(Kubernetes::new(config, times)),
        Engine::FlannelEtcd(config) => Box::new(Etcd::new(config, times)),
        Engine::Dns(config) => Box::new(Resolver::new(config, times)),
    };
    let mut server = 0;
    // Number of servers that failed in turn since the last proof.
    let mut failures = 0;
    let mut delay = DELAY_MIN;
    loop {
        let mut vigil = Vigil::new(stop);
        let (proofs, start) = (report.proofs(), Instant::now());
        let Err(ended) = engine.attempt(server, &mut report, &mut vigil);
        if report.proofs() > proofs {
            failures = 0;
            // A server that proves something and fails at once is not asked without pause.
            if start.elapsed() > DELAY_MAX {
                delay = DELAY_MIN;
            }
        }
        let err = match ended {
            Ended::Stopped => return,
            Ended::Renewed => {
                log::info!("{}: a credential changed; connecting again", source.name);
                continue;
            }
            Ended::Failed(err) => err,
        };
        failures += 1;
        server += 1;
        let is_final = failures >= engine.servers();
        report.failed(&err, is_final);
        if is_final {
            match vigil.sleep(jitter(delay)) {
                Ok(()) => {}
                Err(Ended::Stopped) => return,
                // A credential that was not accepted may be now.
                Err(Ended::Renewed | Ended::Failed(_)) => delay = DELAY_MIN,
            }
            delay = (delay * 2).min(DELAY_MAX);
        }
    }
}

/// Returns 50 to 100 percent of a delay, so that the nodes of a cluster do not come back together.
fn jitter(delay: Duration) -> Duration {
    delay / 2 + delay / 2 * u32::from(random_u16()) / u32::from(u16::MAX)
}

/// Returns a number that cannot be predicted.
pub(crate) fn random_u16() -> u16 {
    let mut bytes = [0; 2];
    // The kernel's generator does not fail; if it did, zero would only be predictable.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        log::warn!("the kernel has no random numbers");
    }
    u16::from(bytes[0]) << 8 | u16::from(bytes[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_at_least_half_of_it() {
        for _ in 0..100 {
            let delay = jitter(DELAY_MAX);
            assert!((DELAY_MAX / 2..=DELAY_MAX).contains(&delay), "{delay:?}");
        }
    }
}
