"""Settings of the site: `sphinx-build -W -b html docs docs/_build/html` builds it, without a network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the gallery imports `recipes`, which is not installed

import walloc_transforms

project = "walloc_transforms"
author = "the authors of walloc_transforms"
version = release = walloc_transforms.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]  # sphinx-gallery writes what it makes of gallery/ to gallery_output/
highlight_language = "text"  # of indented blocks: commands for a shell, mostly

myst_heading_anchors = 3  # links to headings, as GitHub makes them

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_default_options = {"exclude-members": "extra_repr"}
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
autosummary_generate = False  # tables alone; the pages of api/ have the entries
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as fields: autodoc describes properties itself, and would describe them twice
napoleon_custom_sections = ["Shapes", "Shape"]

# Names in docstrings must lead somewhere. Types in signatures may be torch's or timm's, whose inventories would have to
# be downloaded.
nitpicky = True
nitpick_ignore_regex = [("py:(class|obj|data)", ".*")]
linkcheck_ignore = ["https?://"]  # what lies elsewhere may be down; a build must not depend on it

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_output",
    "filename_pattern": "/plot_",
    "image_srcset": ["2x"],  # sharp on phones
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,  # that page loads scripts from elsewhere
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
