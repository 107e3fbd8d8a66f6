//! When a container's health is checked. What follows from a check is [`crate::containers::health`]'s.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Owner;
use crate::containers::health::{Checked, Health, HealthStatus};
use crate::containers::state::Phase;
use crate::db::Durability;

impl Owner {
    /// Only what runs, and is not asked to end, is checked.
    pub(super) fn schedule_check(&mut self) {
        let Some(plan) = &self.plan else { return };
        if self.course.phase != Phase::Running {
            self.check_at = None;
            // The command, if one runs, is killed.
            self.checking = None;
            if !self.course.phase.has_process()
                && self.course.phase != Phase::Starting
                && let Some(health) = &mut self.course.health
            {
                // Docker's word for what is not checked any more.
                health.status = HealthStatus::Unhealthy;
            }
            return;
        }
        let health = self.course.health.get_or_insert_with(Health::starting);
        if self.check_at.is_none() {
            let pause = plan.pause(health.status, self.course.started_at);
            self.check_at = Some(Instant::now() + pause);
        }
    }

    /// Begins a check.
    pub(super) fn check(&mut self) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let (mut told, checking) = oneshot::channel();
        let (shared, id) = (Arc::clone(&self.shared), self.record.id);
        self.checking = Some(checking);
        self.shared.tasks.spawn("health check", async move {
            let checked = tokio::select! {
                // Nobody wants to know any more.
                () = told.closed() => return,
                checked = plan.check(&shared, id) => checked,
            };
            // The owner may have gone.
            let _ = told.send(checked);
        });
    }

    pub(super) async fn checked(&mut self, checked: Option<Checked>) {
        self.checking = None;
        self.check_at = None;
        if let (Some(plan), Some(health), Some(checked)) =
            (&self.plan, &mut self.course.health, checked)
        {
            let changed = health.take(plan, checked, self.course.started_at);
            let status = health.status.name();
            if let Err(error) = self.write(Durability::Normal).await {
                self.warn("record a health check", &error);
            }
            self.publish();
            if changed {
                self.announce(&format!("health_status: {status}"), &[]);
            }
        }
        self.schedule_check();
    }
}
