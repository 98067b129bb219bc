"""One loaded tier at work: its sequences, its cache, and one step at a time.

Shape letters: V vocabulary.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

import torch

from mythos.engine.backend import Backend, Pass, Segment
from mythos.engine.cache import BLOCK, BLOCKS_PER_CHUNK, CHUNK
from mythos.engine.drafting import NONE, drafts_for, give_back, learn
from mythos.engine.masks import allowed_tokens, new_matcher
from mythos.engine.request import Finish, Lane
from mythos.engine.sampling import choose, logprob_of
from mythos.engine.schedule import ANSWER_COST, PROMPT_COST, Pace, Schedule
from mythos.engine.sequence import Sequence
from mythos.engine.speculation import DEEPEST, Speculation

if TYPE_CHECKING:
    from mythos.engine.loader import LoadedTier

MAX_BATCH = 64  # sequences being read and answered at once
MAX_UNREAD = 512  # events a reader may fall behind before its request is paused


class Runner:
    """`step` is one pass of decoding and, where there is room for it, one prompt chunk.

    A sequence gets one token a pass, or more where `speculation` has a draft that holds. `clock` (seconds)
    measures passes and chunks: the length of drafts and how many passes lie between two chunks follow from
    it, the answers do not.
    """

    def __init__(
        self,
        loaded: "LoadedTier",
        backend: Backend,
        speculation: Speculation | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.loaded = loaded
        self.backend = backend
        self.speculation = speculation
        self.clock = clock
        self.cache = backend.cache
        self.waiting: list[Sequence] = []
        self.prefill: list[Sequence] = []
        self.running: list[Sequence] = []  # who was decoded longest ago is first
        self.schedule = Schedule()
        self.pace = Pace()
        self.spare = 0  # bytes that sequences put aside may hold, all together
        self.arrivals = 0
        self.preemptions = 0
        self.last_used = 0.0

    def warm_up(self) -> None:
        """Computes a chunk and a token nobody asked for: making kernels takes the first pass a second."""
        if self.cache.blocks <= BLOCKS_PER_CHUNK:
            return
        table = list(range(BLOCKS_PER_CHUNK + 1))  # nobody's yet; whoever gets these blocks writes them first
        for start, count in ((0, CHUNK), (CHUNK, 40)):
            self.backend.chunk(Segment(table, start, [0] * count, 1))
        self.backend.decode([Segment(table, CHUNK + 40, [0], 1)])

    def fits(self, positions: int) -> bool:
        """Whether a sequence of so many positions could ever run here."""
        return -(-positions // BLOCK) <= self.cache.blocks

    def add(self, seq: Sequence) -> None:
        seq.backend = self.backend.name
        self.arrivals += 1
        seq.arrived = self.arrivals
        self.waiting.append(seq)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prefill or self.running)

    def sequences(self) -> list[Sequence]:
        return [*self.waiting, *self.prefill, *self.running]

    @property
    def saved_bytes(self) -> int:
        """What sequences put aside hold."""
        return sum(copy.nbytes for seq in self.waiting for copy in seq.saved)

    def step(self) -> bool:
        """One step; False when nothing could be done (all readers are behind)."""
        self._drop_cancelled()
        self.schedule.present(self.sequences())
        self._admit()
        reading = self.schedule.prompt(self.prefill, PROMPT_COST * CHUNK)
        ready = [s for s in self.running if s.generation.unread < MAX_UNREAD]
        urgent = reading is not None and reading.lane is Lane.INTERACTIVE
        rows = self.schedule.rows(ready, self.backend.rows, urgent)
        if rows:
            self.running = [s for s in self.running if s not in rows] + rows
            known = [len(s.tokens) + 1 for s in rows]
            began = self.clock()
            self._decode(rows)
            self.pace.decoded(self.clock() - began)
            for s, paid in zip(rows, known, strict=True):  # a draft that held gave more than the row's token
                self.schedule.charge(s, ANSWER_COST * max(0, len(s.tokens) - paid))
        smooth = any(s.lane is Lane.INTERACTIVE for s in rows)  # a stream that somebody reads
        if reading is not None and (self.pace.ready or not smooth):
            began = self.clock()
            self._chunk(reading)
            self.pace.read(self.clock() - began)
        if not self.busy:
            self.schedule.present(())
        return bool(rows or reading)

    def _drop_cancelled(self) -> None:
        for seq in [s for s in self.sequences() if s.generation.cancelled]:
            self.end(seq, Finish.CANCELLED)

    def end(self, seq: Sequence, finish: Finish, error: str | None = None) -> None:
        """Take a sequence out, give back its blocks, tell its reader."""
        for place in (self.waiting, self.prefill, self.running):
            if seq in place:
                place.remove(seq)
        give_back(seq)
        self.cache.release(seq.table, seq.held)
        seq.table, seq.held, seq.saved = [], [], []
        seq.finish(finish, error)

    def _admit(self) -> None:
        while self.waiting:
            active = self.prefill + self.running
            seq = self.schedule.admitted(self.waiting, aging=not any(s.kept for s in active))
            if seq is None or not (self._enter(seq) or self._make_way(seq, active)):
                return

    def _make_way(self, seq: Sequence, active: list[Sequence]) -> bool:
        """Let an interactive sequence in by putting batch ones aside, the youngest first."""
        if seq.lane is Lane.BATCH or not self.backend.whole:
            return False
        others = [s for s in active if s.lane is Lane.BATCH and not s.kept]
        for other in sorted(others, key=lambda s: -s.arrived):
            if not self._put_aside(other):
                return False
            if self._enter(seq):
                return True
        return False

    def _enter(self, seq: Sequence) -> bool:
        """Give a waiting sequence a place and its blocks; False when there is no room now."""
        if len(self.running) + len(self.prefill) >= MAX_BATCH:
            return False
        prompt = seq.request.prompt
        if not seq.keys:
            seq.keys = self.cache.keys_of(seq.org, prompt)
        # The last position is always computed: its logits choose the first token.
        needed = len(prompt) - 1 if seq.watch is None else seq.opening  # what safeguards read is computed too
        usable = seq.keys[: (seq.computed if seq.saved else needed) // CHUNK]
        got = self.cache.reserve(usable, len(prompt) + seq.limit)
        if got is None:
            return False
        seq.kept = seq.lane is Lane.BATCH and any(s.lane is Lane.INTERACTIVE for s in self.waiting)
        self.waiting.remove(seq)
        seq.table, shared = got
        seq.held = usable[:shared]
        if seq.saved:
            self.cache.copy_in(seq.table, seq.saved, shared * BLOCKS_PER_CHUNK)
            seq.saved = []
        else:
            seq.computed = seq.cached = shared * CHUNK
        if seq.request.grammar is not None and seq.matcher is None:
            try:
                seq.matcher = new_matcher(self.loaded.grammar_tokenizer, seq.request.grammar)
            except ValueError as error:
                self.end(seq, Finish.FAILED, f"grammar: {error}")
                return True
        (self.prefill if seq.prefilling else self.running).append(seq)
        return True

    def _put_aside(self, seq: Sequence) -> bool:
        """Take a sequence's place and blocks; its cache is copied out, since computing it again would not
        give the same bits. False when there is no memory for the copy.
        """
        blocks = -(-seq.positions // BLOCK)
        if blocks * (self.cache.bytes() // self.cache.blocks) > self.spare - self.saved_bytes:
            return False
        (self.prefill if seq.prefilling else self.running).remove(seq)
        seq.saved = self.cache.copy_out(seq.table, seq.positions) if blocks else []
        give_back(seq)
        self.cache.release(seq.table, seq.held)
        seq.table, seq.held = [], []
        self.waiting.append(seq)
        self.preemptions += 1
        return True

    @torch.inference_mode()
    def _chunk(self, seq: Sequence) -> None:
        start, count = seq.next_chunk()
        prompt = seq.request.prompt
        last = start + count == len(prompt)
        segment = Segment(seq.table, start, prompt[start : start + count], 1 if last else 0)
        got = self.backend.chunk(segment, _layers([seq]))
        seq.computed += count
        self.schedule.charge(seq, PROMPT_COST * count)
        index = start // CHUNK
        if count == CHUNK and index == len(seq.held):
            blocks = tuple(seq.table[index * BLOCKS_PER_CHUNK : (index + 1) * BLOCKS_PER_CHUNK])
            if self.cache.publish(seq.keys[index], blocks):
                seq.held.append(seq.keys[index])
        if seq.watch is not None:
            for position in range(max(start, seq.opening), start + count):
                read = seq.watch.prompt if position == seq.opening else seq.watch.token
                read(got.states[seq.watch.guard.profile.layer][position - start])
            if seq.watch.tripped:
                self.end(seq, Finish.REFUSED)
                return
        if last:
            self.prefill.remove(seq)
            self.running.append(seq)
            if seq.limit == 0:
                self._over(seq, Finish.MAX_TOKENS)
            else:
                self._accept(seq, got.logits_WV[0])

    @torch.inference_mode()
    def _decode(self, seqs: list[Sequence]) -> None:
        drafts = [NONE] * len(seqs)
        if self.speculation is not None:
            rooms, ends = [_room(seq) for seq in seqs], self.loaded.tokenizer.eos_ids
            drafts = drafts_for(self.speculation, seqs, rooms, self.backend.rows, ends, self.clock)
        # The newest token of each sequence is not in the cache yet: this pass puts it there, its draft behind
        # it. Positions of a draft that does not hold are written over by the tokens that come instead.
        segments = []
        for seq, draft in zip(seqs, drafts, strict=True):
            fed = [seq.tokens[-1], *draft.tokens]
            segments.append(Segment(seq.table, len(seq.request.prompt) + len(seq.tokens) - 1, fed, len(fed)))
        began = self.clock()
        got = self.backend.decode(segments, _layers(seqs))
        if self.speculation is not None:
            self.speculation.costs.add(sum(len(s.tokens) for s in segments), self.clock() - began)
        row = 0
        for seq, draft, segment in zip(seqs, drafts, segments, strict=True):
            known = len(seq.tokens)
            self._keep(seq, segment.tokens, got, row)
            row += len(segment.tokens)
            if self.speculation is not None:
                learn(self.speculation, seq, draft, seq.tokens[known:])

    def _keep(self, seq: Sequence, fed: Items[int], got: Pass, first: int) -> None:
        """Take from a pass what follows each of the tokens fed, as long as they are what was chosen.

        Every token goes through what it would have gone through in a pass of its own: its choice, the limits,
        and the safeguards. Row `first` is that of the first token fed.
        """
        for row, token in enumerate(fed, first):
            if row > first and token != seq.tokens[-1]:
                return
            watch = seq.watch
            if watch is not None:
                watch.token(got.states[watch.guard.profile.layer][row])
                if watch.tripped:
                    self.end(seq, Finish.REFUSED)
                    return
                seq.release(watch.cleared - seq.request.prefill)
                if seq.ending is not None:
                    self._over(seq, seq.ending)
                    return
            self._accept(seq, got.logits_WV[row])
            if seq.finished:
                return

    def _over(self, seq: Sequence, finish: Finish) -> None:
        """The answer is complete. Under safeguards its last token is read first, then all is checked."""
        watch = seq.watch
        if watch is not None:
            if watch.seen < seq.request.prefill + len(seq.tokens):
                seq.ending = finish
                return
            watch.check()
        self.end(seq, Finish.REFUSED if watch is not None and watch.tripped else finish)

    def _accept(self, seq: Sequence, logits_V: torch.Tensor) -> None:
        """Choose a token from its logits, show it, and see whether the answer is over."""
        request, loaded = seq.request, self.loaded
        raw_V = logits_V
        if seq.matcher is not None:
            try:
                allowed_V = allowed_tokens(seq.matcher, len(logits_V))
            except ValueError as error:
                self.end(seq, Finish.FAILED, f"grammar: {error}")
                return
            logits_V = logits_V.masked_fill(~torch.from_numpy(allowed_V), float("-inf"))
        elif not request.stop_at_eos:
            if request.logprobs is not None:
                raw_V = logits_V.clone()
            logits_V[loaded.eos] = float("-inf")
        token = choose(logits_V, request.sampling, seq.generator)
        if token in loaded.tokenizer.eos_ids:
            self._over(seq, Finish.END)
            return
        seq.tokens.append(token)
        if request.logprobs is not None:
            text_of = loaded.tokenizer.token_bytes
            seq.logprobs.append(logprob_of(raw_V, token, request.logprobs, text_of))
        seq.emit(loaded.tokenizer.token_bytes(token), token)
        complete = False
        if seq.matcher is not None:
            if not seq.matcher.consume_token(token):
                self.end(seq, Finish.FAILED, "grammar: the chosen token was refused")
                return
            complete = seq.matcher.is_stopped() and not seq.matcher.is_error()
        if seq.text.stopped is not None:
            self._over(seq, Finish.STOP_STRING)
        elif complete:
            self._over(seq, Finish.END)
        elif len(seq.tokens) >= seq.limit:
            full = seq.limit < request.max_tokens
            self._over(seq, Finish.CONTEXT if full else Finish.MAX_TOKENS)


def _layers(seqs: list[Sequence]) -> list[int]:
    """The layers that the safeguards of these sequences read."""
    return [seq.watch.guard.profile.layer for seq in seqs if seq.watch is not None]


def _room(seq: Sequence) -> int:
    """Tokens that a draft may have: a pass gives one more than hold, and must not pass what is left."""
    if seq.drafts is None or seq.ending is not None:
        return 0
    left = min(seq.limit - len(seq.tokens), MAX_UNREAD - seq.generation.unread)
    return max(0, min(DEEPEST, left - 1))
