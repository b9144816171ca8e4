"""All but one thing is in pyproject.toml: the recipes of configs/ come into the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """A wheel holds configs/ as medldm/recipes; what is installed for editing reads configs/ itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "medldm" / "recipes"
            self.mkpath(str(target))
            for recipe in sorted(Path("configs").glob("*.toml")):
                self.copy_file(str(recipe), str(target / recipe.name))


setup(cmdclass={"build_py": WithRecipes})
