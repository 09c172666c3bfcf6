"""One thread at a time: what threads do together is what they would do one after another."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

import pyro_corex as pc
from pyro_corex.threads import alone
from tests.training.programs import OPTIONS, copies, fit, vae, vector


def test_fits_and_bounds_in_threads_are_those_of_one_after_another():
    still = vae(seed=9)

    def train(seed):
        return fit(modules[seed], copies(), seed=seed, **OPTIONS)["elbo"]

    def bound(_):
        return pc.tc_bound(still, copies(64)).estimate

    modules = [vae(seed=seed) for seed in range(3)]
    wanted = [train(seed) for seed in range(3)], [bound(seed) for seed in range(3)]
    ends, modules = [vector(module) for module in modules], [vae(seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(6) as pool:
        found = [pool.map(call, range(3)) for call in (train, bound)]
        assert tuple(map(list, found)) == wanted
    assert all(torch.equal(vector(module), end) for module, end in zip(modules, ends, strict=True))


def test_a_process_that_is_forked_does_not_wait_for_the_threads_of_its_parent():
    def enter():
        with alone(), alone():
            pass

    def hold():
        with alone():
            held.set()
            done.wait(20)

    held, done = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    child = multiprocessing.get_context("fork").Process(target=enter)
    child.start()
    child.join(10)
    done.set()
    holder.join()
    assert child.exitcode == 0
