//! Roles in separate processes, on the real engines.

use super::process::ServerProcess;
use super::{Folder, SteadySupplier, get_text, metric, until};

/// A platform split over several processes, and the supplier that feeds it.
pub struct Cluster {
    /// The folder and sandbox of its processes.
    pub folder: Folder,
    /// The supplier that feeds it.
    pub supplier: SteadySupplier,
    variables: Vec<(String, String)>,
}

impl Cluster {
    /// Starts only the supplier. `variables` override those of the sandbox.
    pub async fn new(events: usize, variables: &[(&str, &str)]) -> Cluster {
        assert!(
            super::are_real(),
            "separate roles need the real engines: run this with `make test`"
        );
        let supplier = SteadySupplier::start(events).await;
        let folder = Folder::new();
        let mut all = folder.variables();
        all.push(("SUPPLIER_URLS".to_owned(), supplier.url().to_owned()));
        // How long a killed process keeps its partitions.
        all.push(("KAFKA_SESSION_TIMEOUT".to_owned(), "3s".to_owned()));
        all.extend(
            variables
                .iter()
                .map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned())),
        );
        Cluster {
            folder,
            supplier,
            variables: all,
        }
    }

    /// The settings of its processes.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// Changes a setting for the processes that start from now on.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Starts a process with these roles, and waits until it is ready. `odds` is ready once it
    /// receives heartbeats of a processor, so start that first.
    pub async fn start(&self, roles: &str) -> ServerProcess {
        let process = self.start_at_once(roles).await;
        process.until_ready().await;
        process
    }

    /// Starts a process with these roles without waiting until it is ready; its engines may be
    /// down.
    pub async fn start_at_once(&self, roles: &str) -> ServerProcess {
        let mut all: Vec<_> = self
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.push(("ROLE", roles));
        ServerProcess::start(self.folder.path(), &all).await
    }
}

impl ServerProcess {
    /// Waits until each of its roles is ready.
    pub async fn until_ready(&self) {
        for address in self.health.values() {
            until("readiness", || async {
                (get_text(&format!("http://{address}/healthz")).await.0 == 200).then_some(())
            })
            .await;
        }
    }

    /// A role's metrics page; empty while it is not available.
    pub async fn metrics(&self, role: &str) -> String {
        get_text(&format!("http://{}/metrics", self.health[role]))
            .await
            .1
    }

    /// A metric of a role.
    pub async fn metric(&self, role: &str, name: &str) -> Option<f64> {
        metric(&self.metrics(role).await, name)
    }
}
