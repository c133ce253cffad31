"""python -m unittest discover -s examples/python/tests"""
import os
import tempfile
import time
import unittest

import numpy as np
import zmq

from quantpipe_stage import Model, StageError, Unit, from_float32, held_scale, to_float32
from quantpipe_stage.edges import Input, Output, Shared
from quantpipe_stage.protocol import FROM_RUNNER, host_identity, pack, unpack
from quantpipe_stage.scheme import format_of
from quantpipe_stage.stage import Param, stage
from quantpipe_stage.unit import Entry, References

TYPE = {"linears": [{"module": "q", "site": "attn_in", "out": 4, "in": 3, "bias": False},
                    {"module": "v", "site": "attn_in", "out": 2, "in": 3, "bias": False},
                    {"module": "o", "site": "attn_out", "out": 3, "in": 4, "bias": False}],
        "sites": [{"name": "attn_in", "in": 3, "fold": {"norm": "norm"}},
                  {"name": "attn_out", "in": 4, "fold": {"linear": "v", "first": 0, "head": 1, "repeat": 2}}],
        "norms": [{"module": "norm", "width": 3, "offset": 0.0, "bias": False}]}
INT4 = {"name": "int4", "weights": {"format": "int4", "group": 2}, "ignore": ["lm_head"]}


def model(scheme=None):
    return Model(Unit("model", 0, {
        "path": "/m", "config": {}, "tokenizer": None, "scheme": scheme or INT4, "blocks": 3,
        "network": {"dtype": "BF16", "layers": [{"name": "model.layers.0", "type": 0}], "types": [TYPE]}}))


class Dtypes(unittest.TestCase):
    def test_bf16_rounds_half_to_even(self):
        values = np.array([1.0, 1.00390625, 1.01171875, -3.0, 65504.0], np.float32)  # 1 + 2^-8, 1 + 3 * 2^-8: both halfway
        bits = from_float32(values, "BF16")
        self.assertEqual([hex(b) for b in bits[:4]], ["0x3f80", "0x3f80", "0x3f82", "0xc040"])
        self.assertEqual(list(to_float32(bits, "BF16")[:4]), [1.0, 1.0, 1.015625, -3.0])

    def test_fp8_has_the_numbers_of_its_standard(self):
        codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xFE, 0x7F], np.uint8)  # OCP FP8: 2^-9, 2^-6, 1, 448
        numbers = to_float32(codes, "F8_E4M3")
        self.assertEqual(list(numbers[:6]), [0.0, 2.0**-9, 2.0**-6, 1.0, 448.0, -448.0])
        self.assertTrue(np.isnan(numbers[6]))
        self.assertEqual(list(to_float32(np.array([0x7B, 0x7C], np.uint8), "F8_E5M2")), [57344.0, np.inf])

    def test_fp8_comes_back_from_its_numbers(self):
        for dtype in ("F8_E4M3", "F8_E5M2"):
            codes = np.arange(256, dtype=np.uint8)
            numbers = to_float32(codes, dtype)
            finite = np.isfinite(numbers)
            self.assertTrue(np.array_equal(from_float32(numbers, dtype)[finite], codes[finite]))
        self.assertEqual(list(from_float32(np.array([500.0, 1.0625, 1.1875], np.float32), "F8_E4M3")), [0x7E, 0x38, 0x3A])

    def test_a_scale_is_never_zero(self):
        self.assertEqual(list(held_scale(np.array([0.0, 1e-45], np.float32), "BF16")), [2.0**-7, 2.0**-7])


class Schemes(unittest.TestCase):
    def test_the_first_rule_that_matches_and_what_is_ignored(self):
        scheme = INT4 | {"activations": {"format": "int8"}, "rules": [
            {"match": "*.v", "weights": {"format": "int8", "symmetric": False}}, {"match": "*.o", "weights": {"format": "bf16"}}]}
        self.assertEqual(format_of(scheme, "model.layers.0.q", "BF16").group, 2)
        v = format_of(scheme, "model.layers.0.v", "BF16")
        self.assertEqual((v.bits, v.symmetric, v.group, v.range, v.scales(4, 6)), (8, False, None, (-128, 127), (4, 1)))
        self.assertEqual(v.activations, {"format": "int8"})
        self.assertIsNone(format_of(scheme, "model.layers.0.o", "BF16"))
        self.assertIsNone(format_of(scheme, "lm_head", "BF16"))
        with self.assertRaisesRegex(StageError, "allocate"):
            format_of({"budget": "4bits"}, "q", "BF16")


class Blocks(unittest.TestCase):
    def setUp(self):
        unit = Unit("block", 2)
        for name, shape in (("q", (4, 3)), ("v", (2, 3)), ("o", (3, 4))):
            unit.put(f"model.layers.0.{name}.weight", np.arange(np.prod(shape)).reshape(shape) + 1, "BF16")
        self.block = model().block(unit)
        self.q, self.v, self.o = self.block.linears

    def test_folds_scale_columns_and_divide_rows(self):
        self.block.unit.put("model.layers.0.attn_in.fold", np.array([1, 2, 4], np.float32))
        self.block.unit.put("model.layers.0.attn_out.fold", np.array([3, 3, 5, 5], np.float32))
        self.assertEqual(self.block.weight(self.q).tolist(), [[1, 4, 12], [4, 10, 24], [7, 16, 36], [10, 22, 48]])
        rows = (np.array([[1, 4, 12], [4, 10, 24]], np.float32) / np.array([[3], [5]], np.float32)).tolist()
        self.assertEqual(self.block.weight(self.v).tolist(), rows)
        self.assertEqual(self.block.weight(self.o)[0].tolist(), [3, 6, 15, 20])
        self.assertEqual(self.block.original_weight(self.q)[0].tolist(), [1, 2, 3])

    def test_a_hessian_comes_as_a_triangle(self):
        self.block.unit.put("model.layers.0.attn_in.hessian", np.arange(1, 7, dtype=np.float32))
        site = self.q.site
        self.assertEqual(self.block.hessian(site).tolist(), [[1, 2, 3], [2, 4, 5], [3, 5, 6]])
        self.block.unit.put("model.layers.0.attn_in.fold", np.array([1, 2, 1], np.float32))
        self.assertEqual(self.block.hessian(site).tolist(), [[1, 1, 3], [1, 1, 2.5], [3, 2.5, 6]])
        with self.assertRaisesRegex(StageError, "no absmax of attn_in: declare it in needs"):
            self.block.statistic(site, "absmax")

    def test_codes_are_held_to_the_format(self):
        codes, scale = np.zeros((4, 3), np.int8), np.ones((4, 2), np.float32)
        self.block.set_codes(self.q, codes, scale)
        self.assertEqual(self.block.unit.tensors["model.layers.0.q.weight_codes"].dtype, "I8")
        for wrong, message in ((dict(codes=codes + 8), "from 8 to 8, int4 has -8 to 7"), (dict(codes=codes.T), "expected"),
                               (dict(scale=scale * 0), "above 0"), (dict(scale=scale * 1.001), "BF16 does not hold"),
                               (dict(zero_point=scale), "symmetric: false")):
            with self.assertRaisesRegex(StageError, message):
                self.block.set_codes(self.q, **({"codes": codes, "scale": scale} | wrong))


class Messages(unittest.TestCase):
    def test_what_schemas_forbid_is_refused(self):
        for kind, body, message in (("threads", {}, "the key threads is missing"), ("threads", {"threads": -1}, "negative"),
                                    ("threads", {"threads": 1, "more": 2}, "the key more is not known"),
                                    ("stop", {"x": "\0"}, "not known"), ("dance", {}, "unknown kind dance")):
            with self.assertRaisesRegex(StageError, message):
                unpack(pack(kind, body), FROM_RUNNER)
        unpack(pack("stop", {"x-note": 1}), FROM_RUNNER)
        for frame in (b"", b"\xc1", b"\x82", pack("stop", {}) + b"x"):
            with self.assertRaises(StageError):
                unpack(frame, FROM_RUNNER)

    def test_tensors_that_cannot_be(self):
        good = {"name": "t", "dtype": "F32", "shape": [2], "where": "inline", "path": None, "offset": 0, "bytes": 8}
        Entry(good)
        for change in ({"bytes": 4}, {"dtype": "F31"}, {"shape": [-2]}, {"path": "/x"}, {"where": "shm"}, {"shape": [1] * 9}):
            with self.assertRaises(StageError):
                Entry(good | change)
        for path in ("/etc/passwd", "relative"):
            with self.assertRaisesRegex(StageError, "refused"):
                References("r", ["/nonexistent"]).open("file", path)
        with self.assertRaisesRegex(StageError, "refused"):
            References("r", []).open("shm", "/qp-other-1")

    def test_a_descriptor_has_its_parameters_once(self):
        made = stage(name="s", summary="does", params={"share": Param("percent", "5%"), "on": Param("bool", True)},
                     statistics=["hessian"])(lambda context, block: None)
        self.assertEqual([p["default"] for p in made.descriptor["params"]], ["5%", "true"])
        self.assertEqual(made.params["share"].read("5%"), 0.05)
        self.assertEqual(made.descriptor["uses"], ["hessian"])


class Edges(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.context, self.host = zmq.Context(), host_identity()
        self.out = Output(self.context, "out", f"ipc://{self.folder.name}/out")
        self.out.configure("testrun", self.host, [{"edge": "a->b", "consumers": 1}])
        self.shared, self.input = Shared("testrun"), None

    def tearDown(self):
        for end in (self.out, self.input):
            if end:
                end.socket.close(0)
        self.context.term()
        self.shared.close()
        self.folder.cleanup()

    def dial(self, host=None, window=(1 << 30, 3)):
        if self.input:
            self.input.socket.close()
        peer = {"instance": "b", "replica": 0, "host": host or self.host}
        edge = {"port": "in", "edge": "a->b", "from": [{"instance": "a", "replica": 0, "endpoint": self.out.endpoint, "host": self.host}]}
        self.input = Input(self.context, {"run": "testrun"}, peer, edge, window, References("testrun", []))

    def turn(self, until):
        for _ in range(20000):
            self.out.poll()
            self.input.poll()
            if until():
                return
            time.sleep(0.0005)
        self.fail("nothing came")

    def emit(self, seq, size):
        unit = Unit("block", seq)
        unit.put("t", np.full(size, seq, np.float32))
        self.out.push(unit, None, self.shared)

    def test_large_tensors_are_references_and_freed_when_acknowledged(self):
        self.dial()
        self.emit(1, 10)
        self.emit(2, 100000)
        self.turn(lambda: len(self.input.ready) == 2)
        for seq, where in ((1, None), (2, "shm")):
            unit, receipt = self.input.take()
            self.assertEqual((unit.seq, unit.tensors["t"].array[9]), (seq, seq))
            self.assertEqual(unit.tensors["t"].place and unit.tensors["t"].place[0], where)
            with self.assertRaises(ValueError):
                unit.tensors["t"].array[0] = 1
            self.input.processed(receipt)
            receipt.release()
        self.assertEqual(len([n for n in os.listdir("/dev/shm") if n.startswith(self.shared.prefix[1:])]), 1)
        self.turn(lambda: self.out.unacknowledged() is None)
        self.assertFalse([n for n in os.listdir("/dev/shm") if n.startswith(self.shared.prefix[1:])])
        self.assertEqual(self.out.records()[0]["bytes_by_reference"], 400000)

    def test_another_host_gets_bytes(self):
        self.dial(host="elsewhere")
        self.emit(1, 1000000)
        self.turn(lambda: self.input.ready)
        self.assertEqual(self.input.ready[0][0].tensors["t"].array.sum(), 1000000)
        self.assertEqual(self.out.records()[0]["bytes_inline"], 4000000)

    def test_credit_bounds_what_is_sent(self):
        self.dial(window=(100, 2))
        for seq in range(1, 5):
            self.emit(seq, 20)
        self.turn(lambda: len(self.input.ready) == 1)  # 80 bytes of 100 in use: no space for another
        for _ in range(50):
            self.out.poll()
            self.input.poll()
        self.assertEqual(len(self.input.ready), 1)
        self.input.processed(self.input.take()[1])
        self.turn(lambda: len(self.input.ready) == 1)

    def test_a_successor_gets_what_was_not_acknowledged(self):
        self.dial()
        self.emit(1, 10)
        self.emit(2, 10)
        self.turn(lambda: len(self.input.ready) == 2)
        self.input.take()[1].release()
        self.turn(lambda: self.out.records()[0]["acknowledged"] == 1)
        self.dial()
        self.turn(lambda: len(self.input.ready) == 1)
        self.assertEqual((self.input.ready[0][0].seq, self.out.records()[0]["resent"]), (2, 1))

    def test_strangers_are_dropped_and_told_of(self):
        self.dial()
        self.input._send("hello", protocol=1, run="other", edge="a->b", instance="b", replica=0, host="h")
        self.turn(lambda: self.out.rejected)
        self.assertIn("another run", self.out.rejected[0])

    def test_a_header_of_megabytes_comes_in_parts(self):
        self.dial()
        unit = Unit("model", 0, {"text": "x" * 3000000})
        self.out.push(unit, None, self.shared)
        self.turn(lambda: self.input.ready)
        self.assertEqual(len(self.input.ready[0][0].attrs["text"]), 3000000)


if __name__ == "__main__":
    unittest.main()
