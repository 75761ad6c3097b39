"""Encodings of a segment's keys and values.

    none     as they are                                             lossless
    zstd     bytes of equal significance side by side, then zstd     lossless
    fp8      e4m3, one scale a layer and head                        about 0.5 of bfloat16
    int8     keys per channel in groups of 128 tokens with an offset, values per token          0.52
    int4     the same with groups of 64 tokens, values per token in groups of 32 channels       0.28

Keys have a few large channels that stay large over all tokens, values do not: keys are scaled per channel, values
per token (KIVI, arXiv 2402.02750). Scales and offsets are float16. A codec turns tensors [layers, kv_heads, tokens,
head_dim] into named tensors and decodes those straight into tensors that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch

from kvcache.errors import SegmentCorrupt

CodecName = Literal["none", "zstd", "fp8", "int8", "int4"]
Shape = tuple[int, ...]
_FP8_MAX = 448.0
_TINY = 1e-6  # float16 holds scales down to about this


class Codec(Protocol):
    """Names, dtypes and shapes of what is written are a function of dtype and shape alone, so that a file's header
    can be checked before anything is decoded; a length of -1 means any."""

    lossless: bool

    def spec(self, dtype: torch.dtype, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]: ...

    def encode(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]: ...

    def decode(self, encoded: Mapping[str, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write into ``keys`` and ``values``. Raises ``SegmentCorrupt``."""
        ...


class Plain:
    lossless = True

    def spec(self, dtype: torch.dtype, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        return {"keys": (dtype, shape), "values": (dtype, shape)}

    def encode(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"keys": keys.contiguous(), "values": values.contiguous()}

    def decode(self, encoded: Mapping[str, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        keys.copy_(encoded["keys"])
        values.copy_(encoded["values"])


class Zstd:
    """zstd over the bytes of all tensors in planes: exponents repeat, mantissas do not."""

    lossless = True

    def __init__(self, level: int = 3) -> None:
        self._level = level

    def spec(self, dtype: torch.dtype, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        return {"keys": (torch.uint8, (-1,)), "values": (torch.uint8, (-1,))}

    def encode(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"keys": self._pack(keys), "values": self._pack(values)}

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        import zstandard  # only for this codec: a bare machine may lack it

        planes = tensor.contiguous().view(torch.uint8).reshape(-1, tensor.element_size()).t().contiguous()
        packed = zstandard.ZstdCompressor(level=self._level).compress(planes.numpy().data)
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8)

    def decode(self, encoded: Mapping[str, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        for name, out in (("keys", keys), ("values", values)):
            self._unpack(encoded[name], out)

    @staticmethod
    def _unpack(packed: torch.Tensor, out: torch.Tensor) -> None:
        import zstandard

        # The size is known: a frame that claims another one is refused before it is inflated.
        data = packed.numpy().data
        try:
            if zstandard.frame_content_size(data) != out.nbytes:
                raise SegmentCorrupt("a compressed tensor has another size than its shape")
            raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=out.nbytes)
        except zstandard.ZstdError as error:
            raise SegmentCorrupt(f"a compressed tensor cannot be read: {error}") from error
        planes = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(out.element_size(), -1)
        out.view(torch.uint8).view(-1, out.element_size()).copy_(planes.t())


class Fp8:
    """float8 e4m3 with one scale a layer and head."""

    lossless = False

    def spec(self, dtype: torch.dtype, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        scale = (torch.float32, (*shape[:2], 1, 1))
        return {
            "keys": (torch.float8_e4m3fn, shape),
            "values": (torch.float8_e4m3fn, shape),
            "keys_scale": scale,
            "values_scale": scale,
        }

    def encode(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        encoded = {}
        for name, tensor in (("keys", keys.float()), ("values", values.float())):
            scale = tensor.abs().amax(dim=(2, 3), keepdim=True).clamp_min(_TINY) / _FP8_MAX
            encoded[name] = (tensor / scale).to(torch.float8_e4m3fn)
            encoded[f"{name}_scale"] = scale
        return encoded

    def decode(self, encoded: Mapping[str, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        for name, out in (("keys", keys), ("values", values)):
            for layer in range(out.shape[0]):
                half = _half_of_fp8(encoded[name][layer].view(torch.uint8))
                out[layer].copy_(half.float().mul_(encoded[f"{name}_scale"][layer] * 256.0))


def _half_of_fp8(raw: torch.Tensor) -> torch.Tensor:
    """Return the bits of e4m3 as float16 of 1/256 of their value (exponent bias 7 against 15), subnormals included.
    torch's own conversion goes number by number."""
    wide = raw.to(torch.int16)
    return (((wide & 127) << 7) | ((wide & 128) << 8)).view(torch.float16)


class Int:
    """Integers of 8 or 4 bits. ``token_group``: tokens that share a key channel's scale and offset;
    ``channel_group``: channels of a token's value that share a scale (0: all)."""

    lossless = False

    def __init__(self, bits: Literal[8, 4], token_group: int, channel_group: int) -> None:
        self._bits = bits
        self._token_group = token_group
        self._channel_group = channel_group

    def _groups(self, shape: Shape) -> int:
        return -(-shape[2] // self._token_group)

    def _value_group(self, shape: Shape) -> int:
        group = self._channel_group
        return group if group and shape[3] % group == 0 else shape[3]

    def spec(self, dtype: torch.dtype, shape: Shape) -> dict[str, tuple[torch.dtype, Shape]]:
        layers, heads, tokens, width = shape
        packed = width * self._bits // 8
        per_channel = (layers, heads, self._groups(shape), width)
        return {
            "keys": (torch.uint8, (layers, heads, tokens, packed)),
            "keys_scale": (torch.float16, per_channel),
            "keys_offset": (torch.float16, per_channel),
            "values": (torch.uint8, (layers, heads, tokens, packed)),
            "values_scale": (torch.float16, (layers, heads, tokens, width // self._value_group(shape))),
        }

    def encode(self, keys: torch.Tensor, values: torch.Tensor) -> dict[str, torch.Tensor]:
        spec = self.spec(keys.dtype, tuple(keys.shape))
        encoded = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in spec.items()}
        self._encode_keys(keys.float(), encoded)
        self._encode_values(values.float(), encoded)
        return encoded

    def _encode_keys(self, keys: torch.Tensor, encoded: dict[str, torch.Tensor]) -> None:
        top = float(2**self._bits - 1)
        for group, begin in enumerate(range(0, keys.shape[2], self._token_group)):
            part = keys[:, :, begin : begin + self._token_group]
            low, high = part.amin(dim=2), part.amax(dim=2)
            scale = ((high - low) / top).clamp_min(_TINY).half()
            offset = low.half()
            encoded["keys_scale"][:, :, group], encoded["keys_offset"][:, :, group] = scale, offset
            steps = ((part - offset.float()[:, :, None]) / scale.float()[:, :, None]).round_().clamp_(0, top)
            encoded["keys"][:, :, begin : begin + self._token_group] = self._pack(steps)

    def _encode_values(self, values: torch.Tensor, encoded: dict[str, torch.Tensor]) -> None:
        half = 2 ** (self._bits - 1)
        grouped = values.reshape(*values.shape[:3], -1, self._value_group(tuple(values.shape)))
        scale = (grouped.abs().amax(dim=4) / (half - 1)).clamp_min(_TINY).half()
        encoded["values_scale"].copy_(scale)
        steps = (grouped / scale.float()[..., None]).round_().clamp_(1 - half, half - 1) + half
        encoded["values"].copy_(self._pack(steps.flatten(3)))

    def _pack(self, steps: torch.Tensor) -> torch.Tensor:
        """Pack float steps into bytes; with 4 bits the first half of the channels is in the low nibbles."""
        whole = steps.to(torch.uint8)
        if self._bits == 8:
            return whole
        low, high = whole.chunk(2, dim=-1)
        return low | (high << 4)

    def _unpack(self, packed: torch.Tensor, out: torch.Tensor) -> None:
        if self._bits == 8:
            out.copy_(packed)
            return
        low, high = out.chunk(2, dim=-1)
        low.copy_(packed & 15)
        high.copy_(packed >> 4)

    def decode(self, encoded: Mapping[str, torch.Tensor], keys: torch.Tensor, values: torch.Tensor) -> None:
        scratch = None if keys.dtype == torch.float32 else torch.empty(keys.shape[1:], dtype=torch.float32)
        for layer in range(keys.shape[0]):  # a layer at a time stays in the processor's cache over the passes
            for out, decode in ((keys[layer], self._decode_keys), (values[layer], self._decode_values)):
                decode({name: tensor[layer] for name, tensor in encoded.items()}, out if scratch is None else scratch)
                if scratch is not None:
                    out.copy_(scratch)

    def _decode_keys(self, encoded: Mapping[str, torch.Tensor], out: torch.Tensor) -> None:
        self._unpack(encoded["keys"], out)
        scale, offset = encoded["keys_scale"].to(out.dtype), encoded["keys_offset"].to(out.dtype)
        size = self._token_group
        whole = out.shape[1] // size
        if whole:
            groups = out[:, : whole * size].view(out.shape[0], whole, size, out.shape[2])
            torch.addcmul(offset[:, :whole, None], groups, scale[:, :whole, None], out=groups)
        if whole * size < out.shape[1]:
            rest = out[:, whole * size :]
            torch.addcmul(offset[:, whole, None], rest, scale[:, whole, None], out=rest)

    def _decode_values(self, encoded: Mapping[str, torch.Tensor], out: torch.Tensor) -> None:
        self._unpack(encoded["values"], out)
        scale = encoded["values_scale"].to(out.dtype)
        grouped = out.view(*out.shape[:2], scale.shape[2], -1)
        grouped.sub_(2 ** (self._bits - 1)).mul_(scale[..., None])


CODECS: dict[CodecName, Codec] = {
    "none": Plain(),
    "zstd": Zstd(),
    "fp8": Fp8(),
    "int8": Int(8, token_group=128, channel_group=0),
    "int4": Int(4, token_group=64, channel_group=32),
}


def codec_for(codec: CodecName, *, standalone: bool) -> CodecName:
    """Return how a segment is written when ``codec`` was asked for: chained ones are exact, and stay so."""
    return codec if standalone or CODECS[codec].lossless else "none"
