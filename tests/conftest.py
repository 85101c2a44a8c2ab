"""Shared by all tests: eight CPU devices, quick compilation, repeatable random examples, tiny models, a bucket."""

import contextlib
import fractions
import functools
import json
import math
import os
import socket
import uuid
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gcp_storage_emulator import server, settings
from gcp_storage_emulator.exceptions import Conflict
from gcp_storage_emulator.handlers import objects
from safetensors.numpy import save_file

from shapjax import models
from shapjax.models import vit

if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# With models this small, compiling is what takes the time. Processes that tests start inherit the flag.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):  # later ones end at a flag that they no longer know
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("suite")

PIXELS = (8, 8, 2)  # of the tiny models' images


class Model(NamedTuple):
    """A module, parameters and the compiled (params, images, segment_ids) -> phi."""

    module: vit.ViT
    params: Any
    apply: Any


def random_tree(shapes: Any, *, scale: float) -> Any:
    """Returns arrays of these shapes, without any 0 or 1, so that no term of a formula hides."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape, scale=scale), s.dtype), shapes)


def random_values(rng, *, b=3, n=5, m=4, k=2, scale=1.0):
    """Returns random phi, masks, v(S), v(S^c) that belong to no model."""
    phi, v, c = (jnp.asarray(scale * rng.normal(size=s), jnp.float32) for s in ((b, n, k), (b, m, k), (b, m, k)))
    return phi, jnp.asarray(rng.random((b, m, n)) < 0.5), v, c


def every_pair(n):
    """Returns codes [M] and masks [1, M, n] of one of each pair but (empty, all), repeated in the kernel's proportions.

    A loss on these pairs is the expectation of the loss on sampled pairs.
    """
    codes = range(1, 2 ** (n - 1))
    sizes = [bin(code).count("1") for code in codes]
    weights = [fractions.Fraction(1, math.comb(n, k) * k * (n - k)) for k in sizes]
    common = math.lcm(*(w.denominator for w in weights))
    codes = np.repeat(codes, [int(w * common) for w in weights])
    return codes, jnp.asarray((codes[:, None] >> np.arange(n) & 1 == 1)[None])


@pytest.fixture(scope="session")
def tiny_vit():
    """Makes a ViT of 4 patches (unless told otherwise) and 3 classes with random parameters; one for each setting."""

    @functools.cache
    def make(**changes) -> Model:
        settings = dict(num_classes=3, image_size=PIXELS[:2], patch_size=4, width=16, depth=2, heads=2, remat="none")
        module = vit.ViT(**(settings | changes))
        shapes = models.param_shapes(module, image_shape=(*module.image_size, PIXELS[2]))
        apply = jax.jit(lambda params, images, segment_ids=None: module.apply({"params": params}, images, segment_ids))
        return Model(module, random_tree(shapes, scale=0.3), apply)

    return make


@pytest.fixture(scope="session")
def toy():
    """Returns the smallest model with interacting patches: "images" are [B, 5, 3], one row a patch; 3 classes."""

    def apply(params, images, segment_ids=None):
        b, n, _ = images.shape
        same_BNN = jnp.ones((b, n, n)) if segment_ids is None else segment_ids[:, :, None] == segment_ids[:, None, :]
        context = jnp.einsum("bnm,bmd->bnd", same_BNN.astype(images.dtype), images)
        return jnp.tanh(images @ params["own"] + context @ params["context"]) @ params["kernel"] + params["bias"]

    shapes = {"own": (3, 4), "context": (3, 4), "kernel": (4, 3), "bias": (1, 1, 3)}
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return Model(None, random_tree(shapes, scale=1.0), apply)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def write_vit():
    """Returns write_vit(directory, classes=3, ...): it writes random weights of a tiny ViT as transformers does."""

    def write(directory, *, classes=3, width=16, depth=1, heads=2, patch=14, image=28, channels=3, **config):
        rng, hidden, tensors = np.random.default_rng(1), 2 * width, {}

        def add(name, *shape, bias=True):
            tensors[f"{name}.weight"] = rng.normal(size=shape, scale=0.3)
            if bias:
                tensors[f"{name}.bias"] = rng.normal(size=shape[:1], scale=0.3)

        for i in range(depth):
            block = f"vit.encoder.layer.{i}."
            for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value",
                         "attention.output.dense"):
                add(block + name, width, width)
            add(f"{block}intermediate.dense", hidden, width)
            add(f"{block}output.dense", width, hidden)
            add(f"{block}layernorm_before", width)
            add(f"{block}layernorm_after", width)
        add("vit.embeddings.patch_embeddings.projection", width, channels, patch, patch)
        add("vit.layernorm", width)
        tensors["vit.embeddings.cls_token"] = rng.normal(size=(1, 1, width))
        tensors["vit.embeddings.position_embeddings"] = rng.normal(size=(1, (image // patch) ** 2 + 1, width))
        if classes:
            add("classifier", classes, width)
        tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(
            {"model_type": "vit", "num_attention_heads": heads, "image_size": image} | config))
        return tensors

    return write


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Serves a bucket of the name "bucket" on loopback, to this process and to those that tests start.

    Three things that buckets do are added to the emulator: gcsfs may cancel an upload and move an object, and
    tensorstore is told the generation of what it reads.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    download = objects.download

    def with_generation(request, response, storage, *rest):
        download(request, response, storage, *rest)
        if response.status != 404:
            found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = found["generation"]

    def move(request, response, storage, *rest):
        request.params["dest_bucket_name"] = request.params["bucket_name"]
        objects.copy(request, response, storage, *rest)
        objects.delete(request, response, storage, *rest)

    moves = rf"{settings.API_ENDPOINT}/b/(?P<bucket_name>[^/]+)/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)"
    with pytest.MonkeyPatch.context() as patch, server.create_server(
            "localhost", port, in_memory=True, default_bucket="bucket") as running:
        patch.setattr(objects, "download", with_generation)
        patch.setattr(server, "HANDLERS", ((moves, {"POST": move}), *server.HANDLERS))
        for pattern, handlers in server.HANDLERS:
            if pattern.startswith("^/upload"):
                patch.setitem(handlers, "DELETE", lambda *_: None)
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://localhost:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which asks by gRPC, and the emulator has none
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("copies")))
        yield running._storage


@pytest.fixture
def bucket(store):
    """Returns a new place in a bucket, gs://…; nothing is there."""
    return f"gs://bucket/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def refuse(store, monkeypatch):
    """Makes the bucket refuse, in a block, to write objects whose names hold a text: with refuse(text)."""
    create = store.create_file

    @contextlib.contextmanager
    def refusing(text):
        def create_file(bucket, name, *rest):
            if text in name:
                raise Conflict("refused")
            return create(bucket, name, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(store, "create_file", create_file)
            yield

    return refusing
