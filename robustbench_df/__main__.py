"""``python -m robustbench_df`` is ``rdf``."""

from robustbench_df.cli import main

if __name__ == "__main__":
    main()
