"""Numbers that others have published, from their data, which stays in statsmodels: Spector's is under copyright."""

import numpy as np
import pytest

from crossentropy.evaluation import report

sm = pytest.importorskip("statsmodels.api", reason="the data sets come with statsmodels")


def test_spector_logit():
    """Spector and Mazzeo 1980 (Greene, Econometric Analysis): log-likelihood -12.8896, McFadden's R2 0.3740."""
    data = sm.datasets.spector.load_pandas()
    model = sm.Logit(data.endog, sm.add_constant(data.exog)).fit(disp=0, tol=1e-14)
    found = report(np.stack([1 - model.predict(), model.predict()], axis=1), labels=data.endog.to_numpy())
    assert found.loss.mean == pytest.approx(0.4028010694, abs=5e-10)
    prior = found.baselines[1]
    assert prior.skill == pytest.approx(0.3740383, abs=5e-8)
    assert prior.skill == pytest.approx(model.prsquared, abs=1e-12)


def test_anes96_multinomial():
    """The 1996 American National Election Study, party identification in 7 classes: log-likelihood -1461.922747,
    pseudo R2 0.1648."""
    data = sm.datasets.anes96.load_pandas()
    exog = sm.add_constant(data.exog, prepend=False)
    model = sm.MNLogit(data.endog, exog).fit(disp=0, method="newton", tol=1e-14)
    found = report(np.asarray(model.predict()), labels=data.endog.to_numpy())
    assert found.loss.mean * found.loss.rows == pytest.approx(1461.922747, abs=5e-7)
    assert found.baselines[1].skill == pytest.approx(0.1648, abs=5e-5)
