"""A plugin of pytest, for ``-p``: Hypothesis reports the first example that fails as it is."""

from hypothesis import Phase, settings

settings.register_profile("without shrinking", phases=[Phase.explicit, Phase.reuse, Phase.generate])
settings.load_profile("without shrinking")
