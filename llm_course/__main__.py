"""`python -m llm_course`: what it does stands in nbs/support/command_line.ipynb."""
import sys

from llm_course.command_line import main

if __name__ == "__main__":
    sys.exit(main())
