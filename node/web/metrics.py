"""Prometheus metrics, asked of the ledger at every scrape; docs/metrics.md lists them.

Counters come from the audit chain (`tally`), gauges from the tables. No label holds a UID, an
address or the AE title of a stranger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from config.settings import Settings
from node.archive import Archive
from node.atna.spool import NAME as ATNA
from node.audit import Kind
from node.clock import Clock, from_text
from node.ledger.figures import Figures
from node.lock import beats
from node.model_folder import ModelIdentity
from node.states import DeliveryState, SeriesState, SynthesisState
from node.web.tally import STAGE_BUCKETS_S, Chain, Tally
from pipeline.provenance import software_versions

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"
PREFIX: Final = "pseudomri_"


class Metrics(Collector):
    """What a scrape gets.

    Args:
        settings: Of the node.
        figures: Of the ledger.
        chain: The audit chain, followed.
        archive: Whose disk is told.
        model: That new jobs are created for.
        clock: Tells UTC moments.
    """

    def __init__(
        self,
        settings: Settings,
        figures: Figures,
        chain: Chain,
        archive: Archive,
        model: ModelIdentity,
        clock: Clock,
    ) -> None:
        self._settings: Final = settings
        self._figures: Final = figures
        self._chain: Final = chain
        self._archive: Final = archive
        self._model: Final = model
        self._clock: Final = clock

    def text(self) -> bytes:
        """The exposition.

        Raises:
            Retry: When the ledger does not answer.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing before it is asked: registering must not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order of the journey."""
        tally = self._chain.read_on()
        yield from self._about()
        yield from self._received(tally)
        yield from self._made(tally)
        yield from self._delivered(tally)
        yield from self._recorded(tally)
        yield from self._told()

    def _about(self) -> Iterator[Metric]:
        yield _info("build", "The program.", {"version": software_versions()["pseudomri"]})
        model = {
            "name": self._model.name,
            "version": self._model.version,
            "digest": self._model.digest,
        }
        yield _info("model", "The model that new jobs are created for.", model)
        beating = GaugeMetricFamily(
            f"{PREFIX}role_last_turn_timestamp_seconds",
            "When a role last had a good turn; absent when it was stopped in order.",
            labels=["role"],
        )
        for role, at in beats(self._settings.node.data_folder).items():
            beating.add_metric([role], at)
        yield beating
        yield _gauge("disk_free_bytes", "Free on the archive's disk.", self._archive.free_bytes())
        yield _gauge(
            "disk_reserved_bytes",
            "Below this much free, instances are refused with 0xA700.",
            self._settings.receive.minimum_free_bytes,
        )

    def _received(self, tally: Tally) -> Iterator[Metric]:
        yield _counter(
            "received_instances",
            "C-STORE requests by the status that they were answered with.",
            "status",
            tally.answers,
        )
        yield CounterMetricFamily(
            f"{PREFIX}received_bytes", "Data sets stored.", value=tally.received_bytes
        )
        # They go on record with their first instance, so one that only verifies does not count.
        yield _by_state(
            "associations",
            "Associations that brought an instance, by ending.",
            self._figures.associations(),
            ("open", "released", "aborted", "timed out", "orphaned"),
            label="ending",
        )
        yield _counter(
            "refused_associations", "Refused associations.", "reason", tally.refused_associations
        )
        states = self._figures.states()
        yield _by_state("series", "Series by state.", states["series"], SeriesState)
        yield _by_state("syntheses", "Syntheses by state.", states["syntheses"], SynthesisState)

    def _made(self, tally: Tally) -> Iterator[Metric]:
        queue, now = self._figures.queue(), self._clock()
        yield _gauge("queue_depth", "Syntheses that wait for the worker.", queue.depth)
        yield _gauge(
            "queue_oldest_age_seconds", "Of the one that waits longest.", _age(queue.oldest_at, now)
        )
        yield _gauge(
            "running_longest_age_seconds",
            "Of the synthesis that runs longest.",
            _age(queue.longest_running_at, now),
        )
        stages = HistogramMetricFamily(
            f"{PREFIX}stage_duration_seconds",
            "Of syntheses that came through: waiting, computing, delivering, and the whole.",
            labels=["stage"],
        )
        for name, histogram in tally.stages.items():
            edges = [*(f"{edge:g}" for edge in STAGE_BUCKETS_S), "+Inf"]
            buckets = list(zip(edges, accumulate(histogram.counts), strict=True))
            stages.add_metric([name], buckets, histogram.sum_s)
        yield stages

    def _delivered(self, tally: Tally) -> Iterator[Metric]:
        deliveries = GaugeMetricFamily(
            f"{PREFIX}deliveries", "Deliveries by state.", labels=["destination", "state"]
        )
        waiting = GaugeMetricFamily(
            f"{PREFIX}delivery_oldest_age_seconds",
            "Of the delivery that is open for longest.",
            labels=["destination"],
        )
        last = GaugeMetricFamily(
            f"{PREFIX}last_delivery_timestamp_seconds",
            "When the destination last had a whole delivery.",
            labels=["destination"],
        )
        now = self._clock()
        for name, figures in self._figures.destinations().items():
            for state in DeliveryState:
                deliveries.add_metric([name, str(state)], figures.states.get(str(state), 0))
            waiting.add_metric([name], _age(figures.waiting_since, now))
            if figures.last_delivered_at:
                last.add_metric([name], from_text(figures.last_delivered_at).timestamp())
        yield from (deliveries, waiting, last)
        yield _counter_of_pairs(
            "delivery_attempts", "Attempts by outcome.", ("destination", "outcome"), tally.attempts
        )
        yield _counter_of_pairs(
            "delivered_instances",
            "Instances by the status that the destination answered with.",
            ("destination", "status"),
            tally.delivered,
        )

    def _recorded(self, tally: Tally) -> Iterator[Metric]:
        known = {str(kind): tally.kinds[kind] for kind in Kind}
        yield _counter("audit_events", "Events of the audit chain.", "kind", known)
        yield _gauge(
            "audit_chain_intact",
            "1 while every event that was read holds; 0 from the first that does not.",
            self._chain.broken is None,
        )
        if self._chain.verified_at is not None:
            yield _gauge(
                "audit_chain_verified_timestamp_seconds",
                "When the whole chain was last read from its first event.",
                self._chain.verified_at.timestamp(),
            )

    def _told(self) -> Iterator[Metric]:
        """How far the syslog server is behind; nothing where there is none."""
        if not self._settings.atna.host:
            return
        backlog = self._figures.backlog(ATNA)
        yield _gauge(
            "atna_backlog_events",
            "Audit events that the syslog server has not been told yet.",
            backlog.events,
        )
        yield _gauge(
            "atna_oldest_age_seconds",
            "Of the first of them.",
            _age(backlog.oldest_at, self._clock()),
        )


def _age(at: str | None, now: datetime) -> float:
    return 0.0 if at is None else max(0.0, (now - from_text(at)).total_seconds())


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, meaning, value=float(value))


def _info(name: str, meaning: str, facts: Mapping[str, str]) -> Metric:
    return InfoMetricFamily(PREFIX + name, meaning, value=dict(facts))


def _by_state(
    name: str, meaning: str, counts: Mapping[str, int], states: object, label: str = "state"
) -> Metric:
    """A gauge a state, those with none of them too: a series that comes and goes alerts nobody."""
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=[label])
    for state in states:  # type: ignore[attr-defined]
        family.add_metric([str(state)], counts.get(str(state), 0))
    return family


def _counter(name: str, meaning: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _counter_of_pairs(
    name: str, meaning: str, labels: tuple[str, str], counts: Mapping[tuple[str, str], int]
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for pair, count in sorted(counts.items()):
        family.add_metric(list(pair), count)
    return family
